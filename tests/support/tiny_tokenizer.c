#include "support/tiny_tokenizer.h"

#include "support/support.h"

static void add_characters(char *json)
{
    for (int c = '!'; c <= '~'; c++) {
        const char *escape = c == '"' || c == '\\' ? "\\" : "";
        sprintf(json + strlen(json), "\"%s%c\": %d, ", escape, c, c - 30);
    }
}

stm_tokenizer *tiny_tokenizer(void)
{
    char json[8192] =
        "{\"added_tokens\": ["
        "{\"id\": 0, \"content\": \"<unk>\", \"special\": true}, {\"id\": 1, \"content\": \"<s>\", \"special\": true}, "
        "{\"id\": 2, \"content\": \"</s>\", \"special\": true}], "
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}, "
        "\"decoder\": {\"type\": \"ByteLevel\"}, "
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "
        "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": "
        "{\"<s>\": {\"id\": \"<s>\", \"ids\": [1], \"tokens\": [\"<s>\"]}}}, "
        "\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, ";
    stm_tokenizer *tokenizer;
    add_characters(json);
    strcat(json, "\"\\u0120\": 97, \"\\u010a\": 98, \"\\u00c3\": 99}}}");
    assert_ok(stm_tokenizer_parse("tiny", json, strlen(json), NULL, &tokenizer));
    return tokenizer;
}
