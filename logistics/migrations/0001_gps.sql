-- What the GPS path keeps besides gps_positions, whose form depends on the server and which
-- src/history/storage.rs makes.

-- Settings that every process of one system must share; compared at each start.
CREATE TABLE shared_settings (
    name  text PRIMARY KEY,
    value text NOT NULL
);

-- Every driver with a row in gps_positions, so that newest positions are found by one index
-- lookup a driver and not by a scan of the history.
CREATE TABLE seen_drivers (
    driver_id     bigint PRIMARY KEY CHECK (driver_id > 0),
    first_seen_at timestamptz NOT NULL DEFAULT now()
);

-- Stream entries that could not be stored. (stream, entry_id) names the entry, so that the same
-- one is kept once however often it is delivered.
CREATE TABLE dead_letters (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream      text        NOT NULL,
    entry_id    text        NOT NULL,
    payload     bytea,
    reason      text        NOT NULL,
    deliveries  integer     NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    redriven_at timestamptz,
    CONSTRAINT dead_letters_entry UNIQUE (stream, entry_id)
);

-- Metres along points given as pairs of 1e-7 degrees, in the order they are aggregated.
-- Haversine on a sphere of 6,371,008.8 m (the mean radius of WGS 84), as in src/index.
CREATE FUNCTION path_metres_step(state double precision[], lat_e7 integer, lon_e7 integer)
RETURNS double precision[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    lat double precision := radians(lat_e7 / 1e7);
    lon double precision := radians(lon_e7 / 1e7);
    h   double precision;
BEGIN
    IF state IS NULL THEN
        RETURN ARRAY[0.0, lat, lon];
    END IF;
    h := sin((lat - state[2]) / 2) ^ 2
       + cos(lat) * cos(state[2]) * sin((lon - state[3]) / 2) ^ 2;
    RETURN ARRAY[state[1] + 2 * 6371008.8 * asin(sqrt(least(1.0, h))), lat, lon];
END $$;

CREATE FUNCTION path_metres_end(state double precision[])
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT state[1] $$;

CREATE AGGREGATE path_metres(integer, integer) (
    SFUNC = path_metres_step,
    STYPE = double precision[],
    FINALFUNC = path_metres_end
);
