# event_sourcing: CQRS and event sourcing inside PostgreSQL
#
# For users:       make && make install         (PG_CONFIG=... picks the server)
# For developers: see "make help"

EXTENSION = event_sourcing
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(EXTENSION).control)

# The install script is these files of src/, joined in this order: a part may
# use only what stands before it.
SQL_PARTS = extension.sql event.sql store.sql stream.sql append.sql feed.sql \
	aggregate.sql dispatch.sql receipt.sql state.sql projection.sql rebuild.sql \
	subscription.sql consumer.sql process_manager.sql schedule.sql run.sql worker.sql \
	wait.sql status.sql grant.sql lint.sql diagram.sql

# Regression tests that must run first, in this order; the others of sql/
# follow by name.  "make test REGRESS='a b'" runs only these.
REGRESS_FIRST =

MODULE_big = $(EXTENSION)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
PGFILEDESC = "event_sourcing - CQRS and event sourcing inside PostgreSQL"

install_script := $(EXTENSION)--$(EXTVERSION).sql
sql_sources := $(addprefix src/,$(SQL_PARTS))
c_headers := $(sort $(wildcard src/*.h))
DATA_built = $(install_script)
# Update scripts, and the frozen install scripts of earlier releases.  That of
# this version is made from src/, and must be the same (release-check).
frozen_script := src/release/$(install_script)
DATA = $(sort $(wildcard src/$(EXTENSION)--*--*.sql)) \
	$(filter-out $(frozen_script),$(sort $(wildcard src/release/*.sql)))
EXTRA_CLEAN = $(EXTENSION)--*.sql tmp_check output_iso tmp_check_iso

PG_CPPFLAGS = -I$(srcdir)/src
# The server's headers themselves have unused parameters, and its lengthof() is
# unsigned.  Warnings are errors only on demand: a newer compiler must not break
# a user's build.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare
ifdef WERROR
PG_CFLAGS += -Werror
endif

REGRESS := $(strip $(REGRESS_FIRST) \
	$(sort $(filter-out $(REGRESS_FIRST),$(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))))
ISOLATION := $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation
PROVE_TESTS := $(sort $(wildcard test/t/*.pl))
TAP_TESTS := $(if $(PROVE_TESTS),1)

# PGXS is not needed for the developers' goals, may be missing when they start,
# and does not survive a space in the path; they work in a copy (test/server.sh).
dev_goals := test test-matrix test-assert test-valgrind test-discard test-sanitize coverage fuzz sqlsmith soak \
	demo bench bench-size bench-age bench-memory bench-profile format format-check lint help
pgxs_goals := $(filter-out $(dev_goals),$(or $(MAKECMDGOALS),all))

.DEFAULT_GOAL := all

ifneq ($(pgxs_goals),)
ifneq ($(words $(CURDIR)),1)
$(error PGXS cannot build in "$(CURDIR)": the path contains a space (make $(dev_goals) do work here))
endif

PG_CONFIG = pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
# Debian's server package brings PGXS without the headers.
ifeq ($(and $(wildcard $(PGXS)),$(wildcard $(shell $(PG_CONFIG) --includedir-server)/postgres.h)),)
$(error no server headers for "$(PG_CONFIG)": install postgresql-server-dev-NN, or set PG_CONFIG)
endif

# No bitcode where the clang that the server was built with is missing.
ifeq ($(shell clang=`sed -n 's/^CLANG *= *//p' $(dir $(PGXS))../Makefile.global` && command -v $${clang:-clang}),)
override with_llvm = no
endif

include $(PGXS)

# There are few files, so any header rebuilds them all.
$(OBJS) $(OBJS:.o=.bc): $(c_headers)

sql_unlisted := $(filter-out $(sql_sources) $(DATA),$(wildcard src/*.sql))

$(install_script): $(sql_sources) $(sql_unlisted) $(EXTENSION).control Makefile
	$(if $(sql_unlisted),$(error $(sql_unlisted) must stand in SQL_PARTS of the Makefile))
	{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; \
	  for part in $(sql_sources); do echo; cat "$$part" || exit; done; } > $@.tmp
	mv $@.tmp $@

# A released version does not change; docs/releasing.md has the steps.
release-check: $(install_script)
	@cmp $(install_script) $(frozen_script)
	@grep -qF '"version": "$(EXTVERSION)"' META.json || { echo "META.json has another version"; exit 1; }
	@grep -qE '^## $(subst .,\.,$(EXTVERSION)) \([0-9]{4}-[0-9]{2}-[0-9]{2}\)' CHANGELOG.md || \
		{ echo "CHANGELOG.md has no date for $(EXTVERSION)"; exit 1; }

# One suite at a time: "make installcheck" stops at the first that fails.
installcheck-regress:
	$(pg_regress_installcheck) $(REGRESS_OPTS) $(REGRESS)
installcheck-isolation:
	$(pg_isolation_regress_installcheck) $(ISOLATION_OPTS) $(ISOLATION)
installcheck-tap:
	$(prove_installcheck)

list-regress:
	@$(foreach t,$(REGRESS),echo $(t);)
list-isolation:
	@$(foreach t,$(ISOLATION),echo $(t);)
list-tap:
	@$(foreach t,$(PROVE_TESTS),echo $(t);)

.PHONY: release-check installcheck-regress installcheck-isolation installcheck-tap list-regress list-isolation list-tap
endif

# Everything below runs on a machine without PostgreSQL, as root or as anyone:
# it brings its own server and leaves nothing behind.
test:
	@bash test/run.sh
test-matrix:
	@bash test/matrix.sh
test-assert:
	@bash test/assert.sh
test-valgrind:
	@VALGRIND=1 bash test/assert.sh
test-discard:
	@DISCARD_ALL=$${DISCARD_ALL-50000} SUITES="$${SUITES-regress isolation}" \
		REGRESS_OPTIONS='-c debug_discard_caches=1' bash test/assert.sh
test-sanitize:
	@SANITIZE=1 bash test/assert.sh
coverage:
	@COVERAGE=1 bash test/run.sh
fuzz:
	@bash test/fuzz.sh $(CALLS) $(SEED)
sqlsmith:
	@bash test/sqlsmith.sh
soak:
	@bash test/server.sh bash bench/soak.sh
demo:
	@bash examples/demo.sh
bench:
	@bash test/server.sh bash bench/run.sh
bench-size bench-age bench-memory bench-profile:
	@bash test/server.sh bash bench/$(@:bench-%=%).sh
format format-check lint:
	@bash test/lint.sh $@
help:
	@echo "make                 build (PG_CONFIG=... picks the server)"
	@echo "make install         install into that server"
	@echo "make test            run all tests on a private server; see the head of test/run.sh"
	@echo "make test-matrix     the same on every major version that Debian has; see test/matrix.sh"
	@echo "make test-assert     the same on a server with assertions; see test/assert.sh"
	@echo "make test-valgrind   all tests under valgrind on that server, for some hours"
	@echo "make test-discard    regression and isolation tests on it, caches discarded all the time"
	@echo "make test-sanitize   all tests with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make coverage        how many lines of the C code the tests run"
	@echo "make fuzz            every function with generated arguments; see the head of test/fuzz.sh"
	@echo "make sqlsmith        random queries over a full store, for ten minutes"
	@echo "make soak            two hours of mixed load; see the head of bench/soak.sh"
	@echo "make demo            run the example application on a private server"
	@echo "make bench           run the benchmarks on a private server; see the head of bench/run.sh"
	@echo "make bench-size      the same with stores of 1, 10 and (BENCH_SIZE=100) 100 million events"
	@echo "make bench-age       10 million calls in one session"
	@echo "make bench-memory    memory of long folds, long reads and large appends"
	@echo "make bench-profile   where the instructions of a call go"
	@echo "make format          indent the C sources; format-check only looks"
	@echo "make lint            clang-tidy, cppcheck and shellcheck"
	@echo "make release-check   is the frozen install script of this version what src/ makes?"
	@echo "make installcheck    run the tests on an installed and running server"

.PHONY: test test-matrix test-assert test-valgrind test-discard test-sanitize coverage fuzz sqlsmith soak demo bench bench-size bench-age bench-memory bench-profile format format-check lint help
