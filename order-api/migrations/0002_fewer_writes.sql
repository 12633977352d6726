-- What an order costs to write: fewer rows, fewer entries of indexes, more updates that touch none.

-- Ids are made in the order of time, so the index of what is due need not hold `next_at`: what
-- waits longest comes first all the same, and taking a payment changes no index.
DROP INDEX payments_due;
CREATE INDEX payments_due ON payments (payment_id) WHERE status = 'due';
DROP INDEX payments_settled;
CREATE INDEX payments_settled ON payments (settled_at) WHERE settled_at IS NOT NULL;

-- Every row is updated soon after it was written, with many of its page.
ALTER TABLE orders SET (fillfactor = 70);
ALTER TABLE payments SET (fillfactor = 70);
ALTER TABLE payment_attempts SET (fillfactor = 70);

-- Both are written by statements only that hold or write the row they belong to, and no order is
-- ever deleted while its `payments` refer to it.
ALTER TABLE order_events DROP CONSTRAINT order_events_order_id_fkey;
ALTER TABLE payment_attempts DROP CONSTRAINT payment_attempts_payment_id_fkey;

-- A row may hold several entries of a stream, as `platform::outbox` describes; rows of a full page
-- need no compression.
ALTER TABLE outbox RENAME COLUMN payload TO payloads;
ALTER TABLE outbox ALTER COLUMN payloads TYPE text[] USING ARRAY[payloads];
ALTER TABLE outbox SET (toast_tuple_target = 8160);
