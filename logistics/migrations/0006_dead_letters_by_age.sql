-- no-transaction
-- Dead letters are listed, redriven and deleted by age.
CREATE INDEX CONCURRENTLY IF NOT EXISTS dead_letters_by_age ON dead_letters (created_at);
