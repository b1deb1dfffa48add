/* A shared object that is no plug-in. */
extern int bare(void);

int bare(void)
{
    return 0;
}
