# Every released version can be installed and updated to this one.  A store that
# was made and filled with the old version goes on with the new one, and the
# extension's objects are then those of a new installation: the same functions,
# views, types, comments and grants.  A released version's script does not change.
#
# That this would be noticed is shown with stand-ins: a version made of the
# current one and a function, with an update script that is right and others
# that forget something.  All scripts go into a private copy of the server.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path(dirname(__FILE__) . '/../..');
my ($version) = slurp_file("$root/event_sourcing.control") =~ /^default_version = '(.*)'/m;
my @released = sort map { /--(.*)\.sql$/ } glob("$root/src/release/event_sourcing--*.sql");

# ---------------------------------------------------------------------------
# A server of its own: programs and share copied, libraries shared.  PostgreSQL
# finds its directories relative to its programs.
# ---------------------------------------------------------------------------

sub config
{
	my ($what) = @_;
	my ($out, $err) = run_command([ 'pg_config', "--$what" ]);
	return abs_path($out);
}
my ($bin, $share, $lib) = (config('bindir'), config('sharedir'), config('pkglibdir'));
my $copy = PostgreSQL::Test::Utils::tempdir_short . '/pg';
foreach my $dir ($bin, $share)
{
	system_or_bail('mkdir', '-p', $copy . dirname($dir));
	system_or_bail('cp', '-a', $dir, $copy . $dir);
}
system_or_bail('mkdir', '-p', $copy . dirname($lib));
# in some installations it is a directory within another one that is copied
system_or_bail('ln', '-s', $lib, $copy . $lib) unless -e $copy . $lib;

my $node = PostgreSQL::Test::Cluster->new('main', install_path => $copy . dirname($bin));
$node->init(extra => ['--encoding=UTF8', '--no-locale']);
$node->start;
my $scripts = $copy . $share . '/extension';
my $current = slurp_file("$scripts/event_sourcing--$version.sql");

sub create_database
{
	my ($db, $with) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION event_sourcing$with");
}

# ---------------------------------------------------------------------------
# What the extension consists of
# ---------------------------------------------------------------------------

my $objects = <<'SQL';
WITH member AS (
	SELECT classid, objid, pg_describe_object(classid, objid, objsubid) AS name
	FROM pg_depend
	WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_sourcing')
), grants AS (
	-- none at all is the same as the default ones
	SELECT 'pg_proc'::regclass AS classid, oid AS objid, COALESCE(proacl, acldefault('f', proowner)) AS acl FROM pg_proc
	UNION ALL SELECT 'pg_class'::regclass, oid, COALESCE(relacl, acldefault('r', relowner)) FROM pg_class
	UNION ALL SELECT 'pg_type'::regclass, oid, COALESCE(typacl, acldefault('T', typowner)) FROM pg_type
)
SELECT name || ': ' || replace(what, E'\n', ' ') FROM (
	SELECT name, 'is there' AS what FROM member
	UNION ALL
	SELECT name, 'comment ' || description FROM member JOIN pg_description d ON d.classoid = classid AND d.objoid = objid
		WHERE d.objsubid = 0
	UNION ALL
	SELECT name, 'granted ' || a::text FROM member JOIN grants USING (classid, objid), unnest(acl) a
	UNION ALL
	SELECT name, 'initially granted ' || a::text FROM member JOIN pg_init_privs i ON i.classoid = classid AND i.objoid = objid,
			unnest(initprivs) a
	UNION ALL
	SELECT name, CASE f.prokind WHEN 'a' THEN to_jsonb(g)::text ELSE pg_get_functiondef(f.oid) END
		FROM member JOIN pg_proc f ON classid = 'pg_proc'::regclass AND f.oid = objid
		LEFT JOIN pg_aggregate g ON g.aggfnoid = f.oid
	UNION ALL
	SELECT name, 'relation of kind ' || relkind::text || ', ' || COALESCE(reloptions::text, 'no options') || ', ' ||
			COALESCE(pg_get_viewdef(c.oid), 'no view')
		FROM member JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
	UNION ALL
	SELECT name, format('type %s %s, input %s', typtype, typcategory, typinput)
		FROM member JOIN pg_type t ON classid = 'pg_type'::regclass AND t.oid = objid
	UNION ALL
	SELECT name, format('column %s %s %s, collation %s, not null %s, comment %s', attnum, attname,
			format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull, col_description(attrelid, attnum))
		FROM member
		LEFT JOIN pg_type t ON classid = 'pg_type'::regclass AND t.oid = objid
		JOIN pg_attribute a ON a.attrelid = CASE WHEN classid = 'pg_class'::regclass THEN objid ELSE t.typrelid END
		WHERE attnum > 0 AND NOT attisdropped
	UNION ALL
	SELECT name, 'label ' || enumlabel FROM member JOIN pg_enum e ON classid = 'pg_type'::regclass AND enumtypid = objid
	UNION ALL
	SELECT 'extension', format('version %s, schema %s, relocatable %s, tables to dump %s', extversion,
			extnamespace::regnamespace, extrelocatable, extconfig::regclass[])
		FROM pg_extension WHERE extname = 'event_sourcing'
) o ORDER BY 1
SQL

sub objects { return [ split /\n/, $node->safe_psql($_[0], $objects) ] }

# Lines that one database has and the other has not.
sub differences
{
	my ($one, $other) = map { objects($_) } @_;
	my %in_one = map { $_ => 1 } @$one;
	my %in_other = map { $_ => 1 } @$other;
	return join("\n", (map { "missing: $_" } grep { !$in_other{$_} } @$one), (map { "too much: $_" } grep { !$in_one{$_} } @$other));
}

create_database('new', '');
my $count = $node->safe_psql('new', q{SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_sourcing')});
cmp_ok($count, '>', 50, "version $version has its objects");
is(scalar(grep { /: is there$/ } @{ objects('new') }), $count, 'all of them are listed');

# ---------------------------------------------------------------------------
# Released versions
# ---------------------------------------------------------------------------

# A store with something of everything, made with an old version, goes on with another.
sub update_store
{
	my ($db, $from, $to) = @_;

	create_database($db, " VERSION '$from'");
	$node->safe_psql($db, slurp_file("$root/test/oracle.sql"));
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr($db), '-f', "$root/test/full_store.sql" ],
		"$from: a store with something of everything");
	my $content = $node->safe_psql($db, 'SELECT * FROM shop.content()');
	# the grants of its user are no part of the comparison
	$node->safe_psql($db, 'REVOKE EXECUTE ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid) FROM shop_app;
		GRANT EXECUTE ON FUNCTION es_lint() TO PUBLIC');
	my $session = $node->background_psql($db, on_error_stop => 0);
	$session->query_safe('SELECT * FROM es_read_all()');
	$node->safe_psql($db, "ALTER EXTENSION event_sourcing UPDATE TO '$to'");
	$node->safe_psql($db, 'SELECT es_upgrade_store()');
	is($session->query(q{SELECT count(*) = (SELECT count(*) FROM es.event) FROM es_read_all()}), 't', "$from to $to: an open session goes on");
	$session->quit;
	return $content;
}

sub store_goes_on
{
	my ($db, $content, $what) = @_;
	$node->safe_psql($db, 'GRANT EXECUTE ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid) TO shop_app;
		REVOKE EXECUTE ON FUNCTION es_lint() FROM PUBLIC');
	my %now = map { $_ => 1 } split /\n/, $node->safe_psql($db, 'SELECT * FROM shop.content()');
	my @lost = grep { /^es\.event: / && !$now{$_} } split /\n/, $content;
	is(scalar @lost, 0, "$what: no event has changed");
	is($node->safe_psql($db, 'SELECT * FROM shop.goes_on()'), '', "$what: everything goes on");
}

foreach my $from (@released)
{
	if ($from eq $version)
	{
		ok(slurp_file("$root/src/release/event_sourcing--$from.sql") eq $current,
			"$from is released: its script is what src/ makes (if it must change, raise default_version: docs/releasing.md)");
		next;
	}
	my $db = "from_$from" =~ s/\W/_/gr;
	my $content = update_store($db, $from, $version);
	is(differences('new', $db), '', "$from: updated, it is version $version");
	store_goes_on($db, $content, $from);
}
note('released: ' . (join(', ', @released) || 'none'));

# ---------------------------------------------------------------------------
# Stand-ins: would it be noticed?
# ---------------------------------------------------------------------------

my $guard = qq{\\echo Use "ALTER EXTENSION event_sourcing UPDATE" to load this file. \\quit\n};
my $function = <<'SQL';
CREATE FUNCTION es_stand_in(stream text) RETURNS bigint
	LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN 1;
SQL
my $comment = "COMMENT ON FUNCTION es_stand_in(text) IS 'nothing';\n";
my $revoke = "REVOKE ALL ON FUNCTION es_stand_in(text) FROM PUBLIC;\n";
my $type = "CREATE TYPE es_stand_in_result AS (a int, b text);\n";
my $view = "CREATE VIEW es_stand_in_view AS SELECT 1 AS a;\nGRANT SELECT ON es_stand_in_view TO PUBLIC;\n";
my $next = $function . $comment . $revoke . $type . $view;

sub add_version
{
	my ($name, $update) = @_;
	append_to_file("$scripts/event_sourcing--$name.sql", $current . $next);
	append_to_file("$scripts/event_sourcing--$version--$name.sql", $guard . $update);
}

add_version('right', $next);
create_database('new_right', " VERSION 'right'");
my $content = update_store('to_right', $version, 'right');
is(differences('new_right', 'to_right'), '', 'an update script that is right is accepted');
store_goes_on('to_right', $content, 'right');

my %wrong = (
	nothing => [ '', qr/^missing: function es_stand_in\(text\): is there$/m ],
	function => [ $function =~ s/STABLE/VOLATILE/r . $comment . $revoke . $type . $view,
		qr/^missing: function es_stand_in\(text\): CREATE OR REPLACE FUNCTION.*? STABLE.*^too much: function es_stand_in\(text\): CREATE OR REPLACE FUNCTION/ms ],
	comment => [ $function . $revoke . $type . $view, qr/^missing: function es_stand_in\(text\): comment nothing$/ ],
	revoke => [ $function . $comment . $type . $view, qr/^too much: function es_stand_in\(text\): granted =X\//m ],
	type => [ $function . $comment . $revoke . $type =~ s/b text/b varchar/r . $view,
		qr/^missing: type es_stand_in_result: column 2 b text.*^too much: type es_stand_in_result: column 2 b character varying/ms ],
	view => [ $function . $comment . $revoke . $type . $view =~ s/SELECT 1/SELECT 2/r, qr/^missing: view es_stand_in_view: relation .*SELECT 1 AS a/m ],
	grant => [ $function . $comment . $revoke . $type . $view =~ s/^GRANT.*//mr, qr/^missing: view es_stand_in_view: granted =r/m ],
	leftover => [ $next . "CREATE FUNCTION es_leftover() RETURNS int LANGUAGE sql RETURN 1;\n", qr/\Atoo much: function es_leftover\(\): / ]);
foreach my $wrong (sort keys %wrong)
{
	add_version("wrong_$wrong", $wrong{$wrong}[0]);
	create_database("new_wrong_$wrong", " VERSION 'wrong_$wrong'");
	create_database("to_wrong_$wrong", " VERSION '$version'");
	$node->safe_psql("to_wrong_$wrong", "ALTER EXTENSION event_sourcing UPDATE TO 'wrong_$wrong'");
	like(differences("new_wrong_$wrong", "to_wrong_$wrong"), $wrong{$wrong}[1], "one that is wrong about $wrong is found out");
}

$node->stop;
done_testing();
