-- A point read by the key: one shard, forwarded verbatim.
\set user_id random(1, 5000)
SELECT name, email, country FROM users WHERE user_id = :user_id;
