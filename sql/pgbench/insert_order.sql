-- A new order: the key of the row gives the shard. Order numbers start above the demo's own.
\set user_id random(1, 5000)
\set order_id random(1000000, 9000000000000)
INSERT INTO orders (order_id, user_id, status, total_cents) VALUES (:order_id, :user_id, 'new', 1999);
