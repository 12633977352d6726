-- The form of dead letters that `platform::dead_letters` describes.

ALTER TABLE order_dead_letters
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    ADD COLUMN deliveries integer NOT NULL DEFAULT 1,
    ADD COLUMN driver_id bigint,
    ADD COLUMN order_id uuid,
    ADD COLUMN redriven_at timestamptz;
