-- Drivers, deliveries and what happened to each delivery.
--
-- delivery_events is what sockets replay: a delivery's `version` is the `seq` of its last event,
-- and both change in one statement. The triggers notify in the writer's own transaction, so that
-- no writer, now or later, can forget to.

CREATE TABLE drivers (
    driver_id bigint PRIMARY KEY CHECK (driver_id > 0),
    vehicle text NOT NULL CHECK (vehicle IN ('bicycle', 'scooter', 'motorcycle', 'car')),
    state text NOT NULL DEFAULT 'offline' CHECK (state IN ('online', 'offline')),
    -- How many deliveries the driver may have at once.
    capacity integer NOT NULL DEFAULT 1 CHECK (capacity BETWEEN 1 AND 100),
    registered_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE deliveries (
    order_id uuid PRIMARY KEY,
    customer_id bigint NOT NULL CHECK (customer_id > 0),
    restaurant_id bigint CHECK (restaurant_id > 0),
    -- The driver named when the delivery was created: part of what a repeated creation must match.
    requested_driver_id bigint,
    -- The driver who has it, or had it when it ended.
    driver_id bigint REFERENCES drivers (driver_id),
    status text NOT NULL
        CHECK (status IN ('confirmed', 'assigned', 'picked_up', 'delivered', 'cancelled')),
    version bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL,
    assigned_at timestamptz,
    picked_up_at timestamptz,
    ended_at timestamptz,
    updated_at timestamptz NOT NULL,
    CONSTRAINT deliveries_driver CHECK (
        CASE status
            WHEN 'confirmed' THEN driver_id IS NULL
            WHEN 'cancelled' THEN true
            ELSE driver_id IS NOT NULL
        END
    ),
    CONSTRAINT deliveries_end CHECK ((status IN ('delivered', 'cancelled')) = (ended_at IS NOT NULL))
);

-- A driver's deliveries under way: counted at each assignment.
CREATE INDEX deliveries_active_by_driver ON deliveries (driver_id)
    WHERE status IN ('assigned', 'picked_up');

CREATE TABLE delivery_events (
    order_id uuid NOT NULL REFERENCES deliveries (order_id) ON DELETE CASCADE,
    seq bigint NOT NULL CHECK (seq > 0),
    status text NOT NULL,
    driver_id bigint,
    -- Who did it: role and id, such as driver:7.
    actor text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (order_id, seq)
);

-- Payload: order id, space, seq.
CREATE FUNCTION notify_delivery_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('delivery_events', NEW.order_id || ' ' || NEW.seq);
    RETURN NULL;
END
$$;
CREATE TRIGGER delivery_events_notify AFTER INSERT ON delivery_events
    FOR EACH ROW EXECUTE FUNCTION notify_delivery_event();

-- Payload: driver id, vehicle, state and capacity, separated by spaces.
CREATE FUNCTION notify_driver() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('drivers',
        concat_ws(' ', NEW.driver_id, NEW.vehicle, NEW.state, NEW.capacity));
    RETURN NULL;
END
$$;
CREATE TRIGGER drivers_notify AFTER INSERT OR UPDATE ON drivers
    FOR EACH ROW EXECUTE FUNCTION notify_driver();
