-- An update by the key: one shard.
\set user_id random(1, 5000)
UPDATE users SET created_at = now() WHERE user_id = :user_id;
