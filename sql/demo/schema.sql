-- The demo's analytics shop. Every shard gets all of it; `.demo/trunkline.toml` says which rows are where.
-- A primary key holds the table's key columns: uniqueness is then each shard's own business.

-- By hash of user_id; joins of these three on user_id stay on each shard.
CREATE TABLE users (
    user_id    bigint PRIMARY KEY,
    name       text NOT NULL,
    email      text NOT NULL,
    country    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE orders (
    order_id    bigint NOT NULL,
    user_id     bigint NOT NULL,
    status      text NOT NULL DEFAULT 'new',
    total_cents bigint NOT NULL DEFAULT 0,
    ordered_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, order_id)
);

CREATE TABLE order_items (
    item_id     bigint NOT NULL,
    order_id    bigint NOT NULL,
    user_id     bigint NOT NULL,
    sku         text NOT NULL,
    quantity    integer NOT NULL,
    price_cents bigint NOT NULL,
    PRIMARY KEY (user_id, order_id, item_id)
);

-- By region, from a list.
CREATE TABLE regional_metrics (
    region        text NOT NULL,
    day           date NOT NULL,
    channel       text NOT NULL,
    visits        bigint NOT NULL,
    revenue_cents bigint NOT NULL,
    PRIMARY KEY (region, day, channel)
);

-- By age: the last days are hot, the last weeks warm, the rest cold.
CREATE TABLE metrics (
    metric_id   bigint NOT NULL,
    name        text NOT NULL,
    value       bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (recorded_at, metric_id)
);

-- By region, and inside a region by hash of user_id.
CREATE TABLE events (
    event_id    bigint NOT NULL,
    region      text NOT NULL,
    user_id     bigint NOT NULL,
    kind        text NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (region, user_id, event_id)
);

-- A reference table: a copy on every shard.
CREATE TABLE countries (
    code   text PRIMARY KEY,
    name   text NOT NULL,
    region text NOT NULL
);

-- Pinned: all of it on one shard.
CREATE TABLE audit (
    audit_id bigint PRIMARY KEY,
    actor    text NOT NULL,
    action   text NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);
