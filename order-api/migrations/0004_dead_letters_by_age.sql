-- no-transaction
-- Dead letters are listed, redriven and deleted by age.
CREATE INDEX CONCURRENTLY IF NOT EXISTS order_dead_letters_by_age ON order_dead_letters (created_at);
