/*-------------------------------------------------------------------------
 *
 * handling.c
 *		What is being handled: the command or event on whose behalf user
 *		code runs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handling.h"

static EsHandling *innermost = NULL;

void
es_handling_begin(EsHandling *handling)
{
	handling->outer = innermost;
	innermost = handling;
}

void
es_handling_end(EsHandling *handling)
{
	Assert(innermost == handling);
	innermost = handling->outer;
}

const EsHandling *
es_handling_current(void)
{
	return innermost;
}
