-- Makes the role that the setting swift.owner names the owner of the present database and of all
-- that is in it, and keeps every other role out. Run by a superuser; doing it again changes nothing.
-- docker-compose.yml runs it for each service, platform/src/stores/owner.rs for private stores.
DO $$
DECLARE
    owner text := current_setting('swift.owner');
    item record;
BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO %I', current_database(), owner);
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('ALTER SCHEMA public OWNER TO %I', owner);
    -- What was made before there was this role. What belongs to an extension stays as it is, and so
    -- do sequences of columns, which go with their tables.
    FOR item IN
        SELECT c.oid::regclass AS name
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
            AND c.relowner <> owner::regrole
            AND NOT EXISTS (
                SELECT FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype IN ('e', 'a', 'i') AND d.refclassid <> 'pg_namespace'::regclass
                    AND (d.deptype = 'e' OR c.relkind = 'S')
            )
        ORDER BY c.oid
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', item.name, owner);
    END LOOP;
    FOR item IN
        SELECT p.oid::regprocedure AS name
        FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> owner::regrole
            AND NOT EXISTS (
                SELECT FROM pg_depend d
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
            )
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO %I', item.name, owner);
    END LOOP;
    FOR item IN
        SELECT t.oid::regtype AS name
        FROM pg_type t
        WHERE t.typnamespace = 'public'::regnamespace AND t.typowner <> owner::regrole
            AND t.typtype IN ('e', 'd')
            AND NOT EXISTS (
                SELECT FROM pg_depend d
                WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
            )
    LOOP
        EXECUTE format('ALTER TYPE %s OWNER TO %I', item.name, owner);
    END LOOP;
END
$$;
