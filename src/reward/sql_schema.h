/* src/reward/sql_schema.h: which tables and columns a query names. Local. */
#ifndef STM_REWARD_SQL_SCHEMA_H
#define STM_REWARD_SQL_SCHEMA_H

#include "base/base.h"
#include "reward/span.h"

/* *out: "users users.name orders.id ..", lower case, with repeats; freed by the caller. Aliases of tables are replaced;
 * a column without a table belongs to the query's table where it has one alone, else it stands by itself. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_sql_schema(stm_span query, char **out);

#endif
