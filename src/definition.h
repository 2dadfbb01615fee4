/*-------------------------------------------------------------------------
 *
 * definition.h
 *		What a store's definition tables say, kept for the session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_DEFINITION_H
#define ES_DEFINITION_H

#include "store.h"

#define ES_DEFINITION_MAX_COLUMNS 24

/* What every kind's set of definitions begins with. */
typedef struct EsDefinitions
{
	MemoryContext context;		/* holds the set */
	uint64		serial;			/* no other load has it */
	uint64		shapes;			/* es_composite_shapes() when it was loaded */
	Oid			reader;			/* the role that used it last, and may read it */
	bool		filtered;		/* by that role's policies, perhaps: nobody else's */
	List	   *list;			/* the definitions, in their order */
} EsDefinitions;

/* A column that definitions are read from. */
typedef struct EsDefinitionColumn
{
	const char *name;
	Oid			type;
	bool		required;		/* a row without it defines nothing */
} EsDefinitionColumn;

/* How a kind of definition is loaded. */
typedef struct EsDefinitionTable
{
	EsDefinitionKind kind;
	Size		set_size;
	void (*begin)(EsDefinitions *set); /* with a zeroed set; NULL: nothing to do */
	void *(*read)(const Datum *values, const bool *nulls); /* NULL: defines nothing */
	int (*compare)(const ListCell *a, const ListCell *b); /* their order */
	int			ncolumns;
	EsDefinitionColumn columns[ES_DEFINITION_MAX_COLUMNS];
} EsDefinitionTable;

/*
 * The definitions of a kind, as they are now and not as the transaction's
 * snapshot has them.  What was loaded before is loaded anew after any change
 * of a definition, function, type or schema, and for a role that may not read
 * it or might see other definitions.  begin and read run in the set's context.
 * Usable to the end of the transaction.
 */
extern EsDefinitions *es_definitions(EsStore *store, const EsDefinitionTable *table);

/* A column's value as read gets it: a string, or a text[] as a list of strings; NULL for NULL. */
extern char *es_definition_string(const Datum *values, const bool *nulls, int column);
extern List *es_definition_list(const Datum *values, const bool *nulls, int column);

/*
 * Free what is outdated.  Only when nothing of ours is running, as at a
 * transaction's first use of a store.
 */
extern void es_definitions_free_outdated(EsStore *store);

#endif							/* ES_DEFINITION_H */
