-- Carts, orders, payments and ratings.
--
-- Whoever changes an order holds its row: its events get their `seq` and their rows in `outbox` one
-- after the other, so that readers of the stream see them in order. Locks are taken order first,
-- then payment.

CREATE TABLE orders (
    -- UUIDv7: orders sort by the time they were made.
    order_id         uuid PRIMARY KEY,
    customer_id      bigint NOT NULL CHECK (customer_id > 0),
    restaurant_id    bigint NOT NULL CHECK (restaurant_id > 0),
    restaurant_name  text NOT NULL,
    -- The orders of one checkout have the same.
    group_id         uuid,
    status           text NOT NULL,
    payment_status   text NOT NULL,
    -- The `seq` of the last event.
    version          bigint NOT NULL CHECK (version > 0),
    currency         text NOT NULL,
    subtotal         bigint NOT NULL CHECK (subtotal >= 0),
    tax              bigint NOT NULL CHECK (tax >= 0),
    delivery_fee     bigint NOT NULL CHECK (delivery_fee >= 0),
    tip              bigint NOT NULL CHECK (tip >= 0),
    total            bigint NOT NULL CHECK (total > 0),
    captured         bigint NOT NULL DEFAULT 0,
    refunded         bigint NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    -- Asked for and neither given back nor refused.
    refund_reserved  bigint NOT NULL DEFAULT 0 CHECK (refund_reserved >= 0),
    -- What was ordered, with names and prices as they were: it never changes.
    items            jsonb NOT NULL,
    menu_version     bigint NOT NULL,
    delivery_address jsonb NOT NULL,
    payment_method   text NOT NULL,
    -- Why it was rejected, cancelled or not paid.
    reason           text,
    ready_at         timestamptz,
    driver_id        bigint,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    CONSTRAINT orders_total CHECK (total = subtotal + tax + delivery_fee + tip),
    CONSTRAINT orders_captured CHECK (captured IN (0, total)),
    CONSTRAINT orders_refunds CHECK (refunded + refund_reserved <= captured)
) WITH (fillfactor = 85);

CREATE INDEX orders_by_customer ON orders (customer_id, order_id);
CREATE INDEX orders_by_restaurant ON orders (restaurant_id, order_id);

CREATE TABLE order_events (
    order_id       uuid NOT NULL REFERENCES orders,
    seq            bigint NOT NULL CHECK (seq > 0),
    type           text NOT NULL,
    status         text NOT NULL,
    payment_status text NOT NULL,
    -- Role and id, such as `customer:7`.
    actor          text NOT NULL,
    data           jsonb NOT NULL,
    at             timestamptz NOT NULL,
    PRIMARY KEY (order_id, seq)
);

-- What is to be moved at the gateway, and was. The charge of an order has the order's id, so there
-- is one; refunds have ids of their own. The id is the gateway's idempotency key.
CREATE TABLE payments (
    payment_id     uuid PRIMARY KEY,
    order_id       uuid NOT NULL REFERENCES orders,
    kind           text NOT NULL CHECK (kind IN ('charge', 'refund')),
    amount         bigint NOT NULL CHECK (amount > 0),
    currency       text NOT NULL,
    payment_method text NOT NULL,
    -- The gateway's name of the charge that a refund belongs to.
    charge_gateway_id text,
    status         text NOT NULL DEFAULT 'due'
                   CHECK (status IN ('due', 'succeeded', 'failed', 'cancelled', 'dead')),
    -- Calls that were begun.
    attempts       integer NOT NULL DEFAULT 0,
    -- So many are made before somebody must look.
    calls_max      integer NOT NULL DEFAULT 12,
    -- When a worker may take it: the end of a lease, of a pause, or of the time that the stream has
    -- to bring a new one.
    next_at        timestamptz NOT NULL,
    -- Of the worker that has it; a result under another lease is not written.
    lease          uuid,
    gateway_id     text,
    failure        text,
    created_at     timestamptz NOT NULL,
    settled_at     timestamptz,
    CONSTRAINT payments_charge CHECK ((kind = 'charge') = (payment_id = order_id)),
    CONSTRAINT payments_refund CHECK ((kind = 'refund') = (charge_gateway_id IS NOT NULL))
) WITH (fillfactor = 85);

CREATE INDEX payments_due ON payments (next_at) WHERE status = 'due';
CREATE INDEX payments_dead ON payments (payment_id) WHERE status = 'dead';
CREATE INDEX payments_refunds ON payments (order_id) WHERE kind = 'refund';
CREATE INDEX payments_settled ON payments (settled_at);

-- Every call of the gateway, written before it is made.
CREATE TABLE payment_attempts (
    payment_id uuid NOT NULL REFERENCES payments,
    n          integer NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    -- NULL while it runs, and for ever when its worker died.
    outcome    text,
    detail     text,
    PRIMARY KEY (payment_id, n)
);

-- Answers of requests that must have one effect. Written with the effect.
CREATE TABLE idempotency_keys (
    -- Role and id.
    caller     text NOT NULL,
    route      text NOT NULL,
    key        text NOT NULL,
    -- SHA-256 of what was asked for.
    body_hash  bytea NOT NULL,
    -- What the request has made.
    effect_id  uuid NOT NULL,
    status     smallint NOT NULL,
    response   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, route, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys USING brin (created_at);

-- `platform::outbox` moves its rows to Redis.
CREATE TABLE outbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream  text NOT NULL,
    field   text NOT NULL,
    payload text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

-- Entries of a stream that no reader can understand.
CREATE TABLE order_dead_letters (
    stream     text NOT NULL,
    entry_id   text NOT NULL,
    payload    bytea,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, entry_id)
);

-- Where the gateway's books and ours differ.
CREATE TABLE reconciliation_breaks (
    break_id   bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kind       text NOT NULL,
    -- The payment here, when it is known, and the gateway's name.
    payment_id uuid,
    gateway_id text NOT NULL,
    detail     text NOT NULL,
    -- It was put right without anybody's help.
    mended     boolean NOT NULL,
    found_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reconciliation_breaks_once UNIQUE (kind, gateway_id)
);
CREATE TABLE reconciliation (
    only_one      boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    checked_until timestamptz NOT NULL
);

-- The truth of a cart; Redis has a copy.
CREATE TABLE carts (
    customer_id  bigint PRIMARY KEY CHECK (customer_id > 0),
    version      bigint NOT NULL,
    -- No line gets the id of one that was there before.
    next_line_id bigint NOT NULL,
    lines        jsonb NOT NULL,
    updated_at   timestamptz NOT NULL
);

CREATE TABLE ratings (
    order_id      uuid PRIMARY KEY REFERENCES orders,
    customer_id   bigint NOT NULL,
    restaurant_id bigint NOT NULL,
    driver_id     bigint,
    order_rating  smallint NOT NULL CHECK (order_rating BETWEEN 1 AND 5),
    driver_rating smallint CHECK (driver_rating BETWEEN 1 AND 5),
    comment       text,
    rated_at      timestamptz NOT NULL
);
CREATE INDEX ratings_by_restaurant ON ratings (restaurant_id, rated_at);

-- Sums over `ratings`, kept with each of its rows.
CREATE TABLE rating_sums (
    subject    text NOT NULL CHECK (subject IN ('restaurant', 'driver')),
    subject_id bigint NOT NULL,
    sum        bigint NOT NULL,
    count      bigint NOT NULL,
    PRIMARY KEY (subject, subject_id)
);
