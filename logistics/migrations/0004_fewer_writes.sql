-- What a delivery costs to write.

-- A row may hold several entries of a stream, as `platform::outbox` describes.
ALTER TABLE outbox RENAME COLUMN payload TO payloads;
ALTER TABLE outbox ALTER COLUMN payloads TYPE text[] USING ARRAY[payloads];

CREATE OR REPLACE FUNCTION tell_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.status, NEW.driver_id) IS NOT DISTINCT FROM
        (OLD.status, OLD.driver_id)
    THEN
        RETURN NULL;
    END IF;
    INSERT INTO outbox (stream, field, payloads) VALUES ('deliveries:events', 'event', ARRAY[
        jsonb_strip_nulls(jsonb_build_object(
            'v', 1,
            'type', 'delivery.' || NEW.status,
            'order_id', NEW.order_id,
            'seq', NEW.version,
            'at', to_char(NEW.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'driver_id', NEW.driver_id
        ))::text]);
    RETURN NULL;
END
$$;

-- Once for a statement, whatever the number of its rows.
DROP TRIGGER delivery_events_notify ON delivery_events;
CREATE OR REPLACE FUNCTION notify_delivery_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('delivery_events', order_id || ' ' || seq) FROM new_events;
    RETURN NULL;
END
$$;
CREATE TRIGGER delivery_events_notify AFTER INSERT ON delivery_events
    REFERENCING NEW TABLE AS new_events
    FOR EACH STATEMENT EXECUTE FUNCTION notify_delivery_event();
