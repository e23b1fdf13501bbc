-- The SQL of a store in PostgreSQL, by the file of the program that has it. A name in braces is
-- filled in by the program; parts are put together. This file is generated
-- (HOOKSTILE_REGENERATE=1 cargo test --test it -- statements::).

-- src/store/postgres/accept.rs

WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
a AS MATERIALIZED (
    SELECT nextval('hookstile.delivery_numbers') AS id, r.*
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[], $6::text[],
        $7::text[], $8::bigint[], $9::text[], $10::boolean[], $11::text[], $12::bytea[],
        $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bytea[])
        AS r (key, token, lasts, digest, route, event_id, event_type, received, secret, test,
            attempts, keys, bytes, counted, lease, head, body)),
new AS (
    INSERT INTO hookstile.ledger (key, token, forwards, ends_ms, ends_before_ms, attempts,
        possibly_delivered, digest, delivery, route)
    SELECT key, token, false, now + lasts, now + lasts, 0, false, digest, id, route FROM a, clock
    ORDER BY key ON CONFLICT (key) DO NOTHING RETURNING delivery),
stored AS (
    INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, attempts,
        secret, test, state, tried, possibly_delivered, due_ms, queued_ms, keys, payload_bytes,
        lease_owner, lease_ends_ms, begun, lease_batch)
    SELECT id, route, event_id, event_type, received, attempts::jsonb, secret, test, 'pending', 0,
        false, due, now, keys, bytes,
        CASE WHEN lease IS NOT NULL THEN $18::bigint END, now + lease, lease IS NOT NULL, $20::bigint
    FROM a JOIN new ON new.delivery = a.id, clock RETURNING id, identity, due_ms, queued_ms),
kept AS (INSERT INTO hookstile.payloads
    SELECT id, head, body FROM a JOIN new ON new.delivery = a.id),
counted AS (
    INSERT INTO hookstile.route_counts AS c
        (route, part, pending, dead, kept_bytes, waiting_bytes)
    SELECT route, $19::smallint, count(*), 0, 0, sum(counted)::bigint
    FROM a JOIN new ON new.delivery = a.id GROUP BY route ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = c.pending + excluded.pending,
        waiting_bytes = c.waiting_bytes + excluded.waiting_bytes)
SELECT a.key, a.id, identity, due_ms, queued_ms FROM stored JOIN a ON a.id = stored.id
    ORDER BY a.id;

-- src/store/postgres/check.rs

SELECT 'rows: ' || count(*) FROM hookstile.store HAVING count(*) <> 1
            UNION ALL SELECT 'the row' FROM hookstile.store WHERE uptime_ms < 0 OR downtime_ms < 0;

SELECT i.indexrelid::regclass::text FROM pg_index i
            JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'hookstile' AND NOT (i.indisvalid AND i.indisready);

SELECT 'del_' || max(id) FROM hookstile.deliveries
            HAVING max(id) > (SELECT last_value FROM hookstile.delivery_numbers);

SELECT 'key ' || key FROM hookstile.ledger WHERE attempts < 0 OR ends_ms < 0
            OR lease_ends_ms < 0;

SELECT 'del_' || id FROM hookstile.deliveries
            WHERE state NOT IN ('success', 'failed', 'pending', 'dead');

SELECT 'del_' || id FROM hookstile.deliveries WHERE CASE state
            WHEN 'pending' THEN due_ms IS NULL OR queued_ms IS NULL OR ended_ms IS NOT NULL
            ELSE due_ms IS NOT NULL OR ended_ms IS NULL END
            OR due_ms < 0 OR queued_ms < 0 OR ended_ms < 0
            OR received_ms NOT BETWEEN -377705023201000 AND 253402207200999;

SELECT 'del_' || id FROM hookstile.deliveries
            WHERE (state <> 'pending' AND lease_owner IS NOT NULL)
            OR (lease_owner IS NULL) <> (lease_ends_ms IS NULL);

SELECT 'del_' || id FROM hookstile.deliveries
            WHERE tried < 0 OR jsonb_typeof(attempts) <> 'array';

SELECT 'del_' || id || ' (' || state || ')' FROM hookstile.deliveries d
            WHERE (payload_bytes > 0 OR state IN ('pending', 'dead'))
            AND NOT EXISTS (SELECT FROM hookstile.payloads p WHERE p.delivery = d.id);

SELECT 'del_' || delivery FROM hookstile.payloads p
            WHERE NOT EXISTS (SELECT FROM hookstile.deliveries d WHERE d.id = p.delivery);

SELECT 'route ' || route FROM (
                SELECT route, count(*) FILTER (WHERE state = 'pending') AS pending,
                    count(*) FILTER (WHERE state = 'dead') AS dead,
                    coalesce(sum(:record_bytes + payload_bytes)
                        FILTER (WHERE state IN ('success', 'failed')), 0) AS kept,
                    coalesce(sum(:record_bytes + payload_bytes)
                        FILTER (WHERE state IN ('pending', 'dead')), 0) AS waiting
                FROM hookstile.deliveries GROUP BY route) AS own
            FULL JOIN (
                SELECT route, sum(pending) AS pending, sum(dead) AS dead, sum(kept_bytes) AS kept,
                    sum(waiting_bytes) AS waiting
                FROM hookstile.route_counts GROUP BY route) AS counted USING (route)
            WHERE (coalesce(own.pending, 0), coalesce(own.dead, 0), coalesce(own.kept, 0),
                coalesce(own.waiting, 0))
            <> (coalesce(counted.pending, 0), coalesce(counted.dead, 0), coalesce(counted.kept, 0),
                coalesce(counted.waiting, 0));

SELECT 'route ' || own.route || ', ' || (date '1970-01-01' + own.day::integer)
            FROM (SELECT route, floor(received_ms / 86400000.0)::bigint AS day,
                    count(*) FILTER (WHERE state = 'success') AS successful,
                    count(*) FILTER (WHERE state IN ('failed', 'dead')) AS failed
                FROM hookstile.deliveries GROUP BY 1, 2) AS own
            LEFT JOIN (SELECT route, day, sum(successful) AS successful, sum(failed) AS failed
                FROM hookstile.days GROUP BY route, day) AS counted USING (route, day)
            WHERE coalesce(counted.successful, 0) < own.successful
            OR coalesce(counted.failed, 0) < own.failed;

SELECT id, payload_bytes - octet_length(head) - octet_length(body), attempts::text
    FROM hookstile.payloads JOIN hookstile.deliveries ON id = delivery
    WHERE payload_bytes <> octet_length(head) + octet_length(body);

SELECT (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'hookstile' AND c.relkind = 'r'),
        (SELECT count(*) FROM hookstile.gateways, hookstile.clock
            WHERE seen_ms > now - $1 AND seen_ms <= now),
        (SELECT count(*) FROM hookstile.ledger
            WHERE ends_ms > (SELECT now FROM hookstile.clock)),
        (SELECT count(*) FROM hookstile.webhooks);

SELECT route, state, count(*), min(received_ms)
    FROM hookstile.deliveries GROUP BY route, state;

SELECT name, definition FROM hookstile.webhooks ORDER BY name;

SELECT label, count(*) OVER () FROM ({select}) AS broken (label) LIMIT {NAMED_ROWS};

BEGIN READ ONLY; SET LOCAL statement_timeout = {};
             SET LOCAL max_parallel_workers_per_gather = 0;

COMMIT;

ROLLBACK;

-- src/store/postgres/claims.rs

WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
requested AS (SELECT *
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[])
    AS a (key, token, lease_ms, window_ms, forwards)),
claimed AS (
    INSERT INTO hookstile.ledger AS l
        (key, token, lease_ends_ms, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered)
    SELECT key, token, now + lease_ms, forwards, now + lease_ms + window_ms, now, 0, false
    FROM requested, clock
    WHERE (SELECT k.digest IS NOT NULL AND k.ends_ms > now
            OR k.lease_ends_ms > now AND k.token <> requested.token
        FROM hookstile.ledger k WHERE k.key = requested.key) IS NOT TRUE
    ORDER BY key
    ON CONFLICT (key) DO UPDATE SET
        token = excluded.token, lease_ends_ms = excluded.lease_ends_ms,
        forwards = excluded.forwards, ends_ms = greatest(l.ends_ms, excluded.ends_ms),
        digest = NULL,
        ends_before_ms = CASE WHEN l.lease_ends_ms IS NOT NULL AND l.token = excluded.token
            THEN l.ends_before_ms ELSE l.ends_ms END,
        attempts = CASE WHEN l.ends_ms <= (SELECT now FROM clock) THEN 0
            WHEN l.lease_ends_ms IS NOT NULL AND l.forwards AND l.token <> excluded.token
            THEN l.attempts + 1 ELSE l.attempts END,
        possibly_delivered = l.ends_ms > (SELECT now FROM clock) AND (l.possibly_delivered
            OR l.lease_ends_ms IS NOT NULL AND l.forwards AND l.token <> excluded.token),
        delivery = CASE WHEN l.ends_ms > (SELECT now FROM clock) THEN l.delivery END
    WHERE (l.digest IS NULL OR l.ends_ms <= (SELECT now FROM clock))
        AND (l.lease_ends_ms IS NULL OR l.lease_ends_ms <= (SELECT now FROM clock)
            OR l.token = excluded.token)
    RETURNING key, attempts, possibly_delivered, delivery
)
SELECT a.key, c.key IS NOT NULL, l.key IS NOT NULL,
    l.digest, l.digest IS NOT NULL AND l.ends_ms > now, coalesce(c.attempts, 0),
    coalesce(c.possibly_delivered, false), coalesce(c.delivery, l.delivery)
FROM requested a CROSS JOIN clock LEFT JOIN claimed c ON c.key = a.key
LEFT JOIN LATERAL (SELECT * FROM hookstile.ledger l WHERE c.key IS NULL AND l.key = a.key
    LIMIT 1) AS l ON true;

WITH released AS MATERIALIZED (
    SELECT l.key FROM hookstile.ledger l JOIN unnest($1::uuid[], $2::bigint[]) AS g (key, token)
        ON l.key = g.key AND l.token = g.token
    WHERE l.key = ANY($1) AND l.lease_ends_ms IS NOT NULL ORDER BY l.key FOR UPDATE OF l)
UPDATE hookstile.ledger l SET lease_ends_ms = NULL, ends_ms = ends_before_ms, token = 0
    FROM released g WHERE l.key = g.key;

SELECT key FROM hookstile.ledger WHERE key = ANY($1);

-- src/store/postgres/connect.rs

--;

-- src/store/postgres/import.rs

BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
    LOCK TABLE hookstile.store, hookstile.ledger, hookstile.deliveries, hookstile.webhooks,
        hookstile.paused;

SELECT EXISTS (SELECT FROM hookstile.ledger) OR EXISTS (SELECT FROM hookstile.deliveries)
        OR EXISTS (SELECT FROM hookstile.webhooks) OR EXISTS (SELECT FROM hookstile.paused)
        OR EXISTS (SELECT FROM hookstile.creations),
    uptime_ms > 0 AND clock_timestamp() - ticked_at < interval '3 seconds' FROM hookstile.store;

INSERT INTO hookstile.ledger
    (key, token, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered, digest,
        delivery, route)
    SELECT key, 0, false, ends, ends, attempts, possibly, digest, delivery, route
    FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::boolean[], $5::uuid[], $6::bigint[],
        $7::text[])
        AS r (key, ends, attempts, possibly, digest, delivery, route) ON CONFLICT DO NOTHING;

INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, state, reason,
        tried, possibly_delivered, attempts, payload_bytes, due_ms, queued_ms, ended_ms, keys,
        secret, test)
    SELECT id, route, event_id, event_type, received, state, reason, tried, possibly,
        attempts::jsonb, bytes, due, queued, ended, keys, secret, test
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::text[], $8::integer[], $9::boolean[], $10::text[], $11::bigint[], $12::bigint[],
        $13::bigint[], $14::bigint[], $15::bytea[], $16::text[], $17::boolean[])
        AS r (id, route, event_id, event_type, received, state, reason, tried, possibly, attempts,
            bytes, due, queued, ended, keys, secret, test);

INSERT INTO hookstile.route_counts (route, part, pending, dead, kept_bytes, waiting_bytes)
    SELECT route, 0, count(*) FILTER (WHERE state = 'pending'),
        count(*) FILTER (WHERE state = 'dead'),
        coalesce(sum($1 + payload_bytes) FILTER (WHERE state IN ('success', 'failed')), 0)::bigint,
            coalesce(sum($1 + payload_bytes) FILTER (WHERE state IN ('pending', 'dead')), 0)::bigint
    FROM hookstile.deliveries GROUP BY route;

UPDATE hookstile.store SET hash_key = $1, uptime_ms = $2, downtime_ms = $3,
                ticked_at = clock_timestamp();

INSERT INTO hookstile.payloads VALUES ($1, $2, $3);

INSERT INTO hookstile.webhooks VALUES ($1, $2);

INSERT INTO hookstile.paused SELECT unnest($1::text[]);

INSERT INTO hookstile.creations (key, request, webhook, definition, ends_ms)
                 VALUES ($1, $2, $3, $4, $5);

INSERT INTO hookstile.redelivery (document, running, owner, lease_ends_ms)
             VALUES ($1, $2, 0, 0);

INSERT INTO hookstile.route_counts VALUES ($1, 0, 0, 0, 0, 0, $2, $3)
            ON CONFLICT (route, part) DO UPDATE SET last_success_ms = excluded.last_success_ms,
                last_failure_ms = excluded.last_failure_ms;

INSERT INTO hookstile.routes VALUES ($1, $2) ON CONFLICT (name) DO UPDATE
                SET created_ms = excluded.created_ms;

INSERT INTO hookstile.days VALUES ($1, $2, 0, $3, $4, $5);

SELECT setval('hookstile.delivery_numbers', max(id))
            FROM hookstile.deliveries HAVING count(*) > 0;

INSERT INTO hookstile.route_settings VALUES ($1, $2, $3, $4)
            ON CONFLICT (route) DO UPDATE SET keep_ms = excluded.keep_ms,
                max_bytes = excluded.max_bytes, horizon_ms = excluded.horizon_ms;

COMMIT;

ANALYZE hookstile.ledger, hookstile.deliveries;

-- src/store/postgres/incidents.rs

WITH known AS MATERIALIZED (SELECT key FROM hookstile.incidents WHERE key = ANY($1)
    ORDER BY key FOR UPDATE)
UPDATE hookstile.incidents i SET seen_ms = (SELECT now FROM hookstile.clock),
    ended_ms = CASE WHEN lasting > 0 THEN NULL ELSE i.ended_ms END,
    document = CASE WHEN least(lasting, r.severity) > i.severity
        THEN r.document ELSE i.document END,
    severity = greatest(i.severity, least(lasting, r.severity))
FROM known, unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[])
    AS r (key, document, severity, lasting)
WHERE i.key = known.key AND r.key = known.key;

INSERT INTO hookstile.incidents (key, document, severity, seen_ms)
SELECT key, document, severity, (SELECT now FROM hookstile.clock)
FROM unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[])
    AS r (key, document, severity, lasting)
WHERE lasting > 0 ORDER BY key ON CONFLICT DO NOTHING;

WITH known AS MATERIALIZED (SELECT key FROM hookstile.incidents
    WHERE ended_ms IS NULL AND seen_ms <= (SELECT now FROM hookstile.clock) - $2
    AND key <> ALL($1) ORDER BY key FOR UPDATE)
UPDATE hookstile.incidents i SET ended_ms = (SELECT now FROM hookstile.clock)
FROM known WHERE i.key = known.key;

WITH known AS MATERIALIZED (SELECT key FROM hookstile.incidents
    WHERE ended_ms <= (SELECT now FROM hookstile.clock) - $2 AND key <> ALL($1)
    AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
    ORDER BY key FOR UPDATE)
DELETE FROM hookstile.incidents i USING known WHERE i.key = known.key;

WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
due AS (SELECT key FROM hookstile.incidents
    WHERE (told < severity OR ended_ms IS NOT NULL)
    AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM clock))
    ORDER BY lease_ends_ms NULLS FIRST, key LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE hookstile.incidents i SET lease_ends_ms = now + $1 FROM due, clock WHERE i.key = due.key
RETURNING i.id, i.document, i.severity, i.told < i.severity, i.lease_ends_ms;

UPDATE hookstile.incidents
                SET told = greatest(told, $2), lease_ends_ms = NULL WHERE id = $1;

DELETE FROM hookstile.incidents WHERE id = $1 AND ended_ms IS NOT NULL;

UPDATE hookstile.incidents
                SET id = DEFAULT, told = 0, lease_ends_ms = NULL
                WHERE id = $1 AND ended_ms IS NULL;

UPDATE hookstile.incidents SET lease_ends_ms = now FROM hookstile.clock
        WHERE id = $1 AND lease_ends_ms = $2;

-- src/store/postgres/operator_settings.rs

WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1
                WHERE revision = $3 RETURNING revision),
            stored AS (INSERT INTO hookstile.webhooks SELECT $1, $2 FROM bumped
                ON CONFLICT (name) DO UPDATE SET definition = excluded.definition),
            remembered AS (INSERT INTO hookstile.creations (key, request, webhook, definition, ends_ms)
                SELECT $4::text, $5::bytea, $1, $2, now + $6
                FROM bumped, hookstile.clock WHERE $4::text IS NOT NULL
                ON CONFLICT (key) DO UPDATE SET request = excluded.request,
                    webhook = excluded.webhook, definition = excluded.definition,
                    ends_ms = excluded.ends_ms)
            SELECT revision FROM bumped;

WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1
                WHERE revision = $2 RETURNING revision),
            removed AS (DELETE FROM hookstile.webhooks w USING bumped WHERE w.name = $1)
            SELECT revision FROM bumped;

WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1)
             INSERT INTO hookstile.paused VALUES ($1) ON CONFLICT DO NOTHING;

WITH bumped AS (UPDATE hookstile.store SET revision = revision + 1)
             DELETE FROM hookstile.paused WHERE route = $1;

INSERT INTO hookstile.redelivery AS r (document, running, owner, lease_ends_ms)
            SELECT $1::text, true, $2::bigint, now + $3 FROM hookstile.clock
            ON CONFLICT (one) DO UPDATE SET document = excluded.document, running = true,
                owner = excluded.owner, lease_ends_ms = excluded.lease_ends_ms
            WHERE NOT r.running OR r.owner = excluded.owner AND r.document = excluded.document;

UPDATE hookstile.redelivery SET document = $1, running = $2,
                lease_ends_ms = (SELECT now FROM hookstile.clock) + $4
            WHERE owner = $3 AND running;

UPDATE hookstile.redelivery SET owner = $1,
                lease_ends_ms = (SELECT now FROM hookstile.clock) + $2
            WHERE running AND (owner = $1 OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
            RETURNING document;

UPDATE hookstile.redelivery SET running = false WHERE running
            RETURNING document;

-- src/store/postgres/outcomes.rs

ROLLBACK;

-- src/store/postgres/query.rs

SELECT d.id, route, event_id, event_type, received_ms, state, reason, tried, possibly_delivered,
        attempts::text, due_ms - (SELECT due FROM hookstile.clock), payload_bytes > 0, secret, test,
        head, body
    FROM hookstile.deliveries d
    LEFT JOIN hookstile.payloads ON payload_bytes BETWEEN 1 AND $1 AND delivery = d.id;

SELECT * FROM ({SELECT_DELIVERY} WHERE {} AND d.id < $10 ORDER BY d.id DESC LIMIT {})
            AS page LIMIT $11;

SELECT count(*) FROM (SELECT 1 FROM hookstile.deliveries
         WHERE $1::bigint = 0 AND {} LIMIT {}) AS found;

SELECT id, payload_bytes > 0 FROM hookstile.deliveries WHERE id > $1 AND {}
         ORDER BY id LIMIT {limit};

SELECT id FROM hookstile.deliveries WHERE route = $1 AND state = 'dead'
         AND reason IN ('rejected', 'expired') ORDER BY id LIMIT {limit};

SELECT id, route, keys, identity FROM hookstile.deliveries WHERE id = ANY($1);

SELECT key, token FROM hookstile.ledger
        WHERE key = $1 AND ends_ms > (SELECT now FROM hookstile.clock)
        AND (digest IS NOT NULL OR attempts > 0 OR delivery IS NOT NULL);

SELECT (SELECT created_ms FROM hookstile.routes WHERE name = $1),
            (SELECT max(last_success_ms) FROM hookstile.route_counts WHERE route = $1),
            (SELECT max(last_failure_ms) FROM hookstile.route_counts WHERE route = $1),
            coalesce(sum(successful), 0)::bigint, coalesce(sum(failed), 0)::bigint,
            coalesce(sum(successful + failed) FILTER (WHERE day >= $2), 0)::bigint,
            coalesce(sum(total_ms), 0)::bigint,
            (SELECT coalesce(sum(pending), 0)::bigint FROM hookstile.route_counts WHERE route = $1),
            (SELECT coalesce(sum(dead), 0)::bigint FROM hookstile.route_counts WHERE route = $1)
        FROM hookstile.days WHERE route = $1;

SELECT revision FROM hookstile.store;

SELECT request, webhook, definition FROM hookstile.creations, hookstile.clock
        WHERE key = $1 AND ends_ms > now;

SELECT name, definition FROM hookstile.webhooks ORDER BY name;

SELECT route FROM hookstile.paused;

SELECT document, running FROM hookstile.redelivery;

-- src/store/postgres/queue.rs

WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
available AS MATERIALIZED (
    SELECT d.id, d.due_ms, CASE WHEN d.payload_bytes < $7 THEN d.payload_bytes END AS bytes,
        d.begun AND (d.lease_owner = $4 AND d.lease_batch = ANY($9)) IS NOT TRUE AS begun
    FROM hookstile.deliveries d WHERE d.route = $1 AND d.state = 'pending'
        AND d.due_ms <= (SELECT due FROM clock) AND d.due_ms >= $6
        AND (d.lease_ends_ms IS NULL OR d.lease_ends_ms <= (SELECT now FROM clock)
            OR d.lease_owner = $4 AND d.lease_batch = ANY($9))
        AND d.id <> ALL($2)
    ORDER BY d.due_ms, d.id LIMIT $3 FOR UPDATE OF d SKIP LOCKED),
sized AS (
    SELECT id, begun, bytes IS NOT NULL AND sum(bytes) OVER (ORDER BY due_ms, id) <= $10::bigint
        AS is_held
    FROM available),
leased AS (
    UPDATE hookstile.deliveries d SET lease_owner = $4, lease_ends_ms = clock.now + $5,
        possibly_delivered = d.possibly_delivered OR sized.begun, begun = sized.is_held,
        lease_batch = $8
    FROM sized, clock WHERE d.id = sized.id
    RETURNING d.id, d.route, d.event_id, d.received_ms, d.state, d.reason, d.tried,
        d.possibly_delivered, d.due_ms, d.queued_ms, d.ended_ms, d.keys, d.payload_bytes,
        d.attempts::text, d.identity, d.event_type, clock.now - d.queued_ms AS age, d.begun)
SELECT leased.*, head, body
FROM leased LEFT JOIN hookstile.payloads ON delivery = id AND begun
ORDER BY due_ms, id;

SELECT due_ms - (SELECT due FROM hookstile.clock) FROM hookstile.deliveries
    WHERE route = $1 AND state = 'pending' AND due_ms > (SELECT due FROM hookstile.clock)
        ORDER BY due_ms, id LIMIT 1;

UPDATE hookstile.deliveries SET lease_owner = NULL, lease_ends_ms = NULL,
        begun = false, lease_batch = NULL
    WHERE id = ANY($1) AND lease_owner = $2 AND state || '' = 'pending';

UPDATE hookstile.deliveries d
    SET lease_ends_ms = (SELECT now FROM hookstile.clock) + r.lasts, lease_batch = NULL
    FROM unnest($1::bigint[], $2::bigint[]) AS r (id, lasts)
    WHERE d.id = r.id AND d.id = ANY($1) AND d.lease_owner = $3 AND d.state || '' = 'pending'
    RETURNING d.id;

WITH loaded AS (
    UPDATE hookstile.deliveries SET begun = true, lease_batch = NULL,
        lease_ends_ms = (SELECT now FROM hookstile.clock) + $3 + payload_bytes / $6 * 1000
    WHERE id = $1 AND state || '' = 'pending' AND lease_owner = $2 AND route = $4
    RETURNING id, event_id, event_type, tried, possibly_delivered, received_ms, queued_ms, identity,
        payload_bytes)
SELECT event_id, event_type, tried, possibly_delivered, received_ms,
    (SELECT now FROM hookstile.clock) - queued_ms, head, body, identity, payload_bytes
FROM loaded LEFT JOIN hookstile.payloads ON delivery = id AND payload_bytes < $5;

SELECT head, body FROM hookstile.payloads WHERE delivery = $1;

BEGIN; SET LOCAL statement_timeout = {};

COMMIT;

-- src/store/postgres/removed.rs

WITH r AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS r (name, keep, max_bytes, horizon)),
made AS (INSERT INTO hookstile.routes
    SELECT name, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM r ORDER BY name
    ON CONFLICT DO NOTHING),
settings AS (INSERT INTO hookstile.route_settings AS s
    SELECT name, keep, max_bytes, horizon FROM r ORDER BY name
    ON CONFLICT (route) DO UPDATE SET keep_ms = excluded.keep_ms,
        max_bytes = excluded.max_bytes, horizon_ms = excluded.horizon_ms
    WHERE (s.keep_ms, s.max_bytes, s.horizon_ms)
        IS DISTINCT FROM (excluded.keep_ms, excluded.max_bytes, excluded.horizon_ms))
INSERT INTO hookstile.gateways SELECT $1::bigint, now, $2 FROM hookstile.clock
    ON CONFLICT (owner) DO UPDATE SET seen_ms = excluded.seen_ms, routes = excluded.routes;

UPDATE hookstile.gateways SET seen_ms = now FROM hookstile.clock WHERE owner = $1;

DELETE FROM hookstile.gateways WHERE owner = $1;

DELETE FROM hookstile.gateways
        WHERE seen_ms < (SELECT now FROM hookstile.clock) - $1;

SELECT keep_ms, max_bytes FROM hookstile.route_settings WHERE route = $1;

SELECT EXISTS (SELECT FROM hookstile.gateways WHERE owner <> $3
        AND seen_ms > (SELECT now FROM hookstile.clock) - $2 AND $1 = ANY(routes));

WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
served AS MATERIALIZED (SELECT DISTINCT unnest(routes) AS route FROM hookstile.gateways
    WHERE owner <> $3 AND seen_ms > (SELECT now FROM clock) - $2)
SELECT r.number, (SELECT horizon_ms FROM hookstile.route_settings s WHERE s.route = r.route)
    + (SELECT queued_ms FROM hookstile.deliveries d
        WHERE d.route = r.route AND state = 'pending' AND state <> 'success'
        ORDER BY id LIMIT 1)
    - (SELECT now FROM clock)
FROM unnest($1::text[]) WITH ORDINALITY AS r (route, number)
WHERE r.route NOT IN (SELECT route FROM served) ORDER BY r.number;

WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
first AS MATERIALIZED (
    SELECT d.id FROM hookstile.deliveries d
    WHERE d.route = $1 AND d.state = $3::text AND d.state <> 'success'
        AND (d.lease_ends_ms IS NULL OR d.lease_ends_ms <= (SELECT now FROM clock))
        AND NOT EXISTS (SELECT FROM hookstile.gateways WHERE owner <> $6
            AND seen_ms > (SELECT now FROM clock) - $7 AND $1 = ANY(routes))
    ORDER BY d.id LIMIT $4 FOR UPDATE OF d SKIP LOCKED),
moved AS (
    UPDATE hookstile.deliveries d SET route = $2, due_ms = least(d.due_ms, clock.due),
        queued_ms = CASE WHEN d.state = 'pending' THEN clock.now ELSE d.queued_ms END,
        possibly_delivered = d.possibly_delivered OR d.begun, begun = false,
        lease_owner = NULL, lease_ends_ms = NULL
    FROM first, clock WHERE d.id = first.id RETURNING d.received_ms, d.payload_bytes),
sides (route, by) AS (VALUES ($1::text, -1::bigint), ($2::text, 1::bigint)),
sums AS (SELECT count(*) AS events, sum($5::bigint + payload_bytes)::bigint AS bytes FROM moved),
counted AS (INSERT INTO hookstile.route_counts AS c
        (route, part, pending, dead, kept_bytes, waiting_bytes)
    SELECT route, 0, CASE $3 WHEN 'pending' THEN by * events ELSE 0 END,
        CASE $3 WHEN 'dead' THEN by * events ELSE 0 END, 0, by * bytes
    FROM sides, sums WHERE events > 0 ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = c.pending + excluded.pending,
        dead = c.dead + excluded.dead, waiting_bytes = c.waiting_bytes + excluded.waiting_bytes),
days AS (INSERT INTO hookstile.days AS d
    SELECT route, day, 0, 0, by * events, 0 FROM sides, (
        SELECT floor(received_ms / 86400000.0)::bigint AS day, count(*) AS events
        FROM moved WHERE $3 = 'dead' GROUP BY 1) AS by_day ORDER BY route, day
    ON CONFLICT (route, day, part) DO UPDATE SET failed = d.failed + excluded.failed)
SELECT events FROM sums;

-- src/store/postgres/route_watch.rs

WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock)
                SELECT r.route, due.due_ms, NULL::bigint
                FROM unnest($1::text[], $2::bigint[]) AS r (route, floor)
                LEFT JOIN LATERAL (SELECT due_ms FROM hookstile.deliveries d
                    WHERE d.route = r.route AND state = 'pending'
                    AND due_ms <= (SELECT due FROM clock) AND due_ms >= r.floor
                    AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM clock))
                    ORDER BY due_ms LIMIT 1) AS due ON true;

SELECT r.route, oldest.id, oldest.received_ms
                FROM unnest($1::text[], $2::bigint[]) AS r (route, floor)
                LEFT JOIN LATERAL (SELECT id, received_ms FROM hookstile.deliveries d
                    WHERE d.route = r.route AND state = 'pending' AND state <> 'success'
                    AND id >= r.floor
                    ORDER BY id LIMIT 1) AS oldest ON true;

SELECT route, sum(pending)::bigint, sum(dead)::bigint,
            sum(kept_bytes + waiting_bytes)::bigint,
            (SELECT last_value FROM hookstile.delivery_numbers)
        FROM hookstile.route_counts GROUP BY route
        HAVING sum(pending) <> 0 OR sum(dead) <> 0 OR sum(kept_bytes + waiting_bytes) <> 0;

-- src/store/postgres/rows.rs

SELECT id, route, event_id, received_ms, state, reason, tried, possibly_delivered, due_ms,
        queued_ms, ended_ms, keys, payload_bytes, attempts::text, lease_owner, recorded_by, identity
        FROM hookstile.deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE;

WITH written AS (INSERT INTO hookstile.ledger AS l
    (key, token, lease_ends_ms, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered,
        digest, delivery, route)
    SELECT key, token, NULL, forced, ends, ends, attempts, possibly, digest, delivery, route
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[], $5::integer[], $6::boolean[],
        $7::uuid[], $8::bigint[], $9::text[]) AS r
        (key, token, ends, forced, attempts, possibly, digest, delivery, route) ORDER BY key
    ON CONFLICT (key) DO UPDATE SET token = excluded.token, lease_ends_ms = NULL, forwards = false,
        ends_ms = greatest(l.ends_ms, excluded.ends_ms), attempts = excluded.attempts,
        possibly_delivered = excluded.possibly_delivered, digest = excluded.digest,
        delivery = excluded.delivery,
        route = coalesce(excluded.route, l.route)
    WHERE l.token = excluded.token OR l.lease_ends_ms IS NULL AND l.digest IS NULL
        OR excluded.forwards RETURNING key)
    SELECT hookstile.check_all(count(*), cardinality($1)) FROM written;

INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, attempts,
        secret, test, state, reason, tried, possibly_delivered, due_ms, queued_ms, ended_ms, keys,
        payload_bytes, lease_owner, lease_ends_ms, begun, lease_batch)
    SELECT id, route, event_id, event_type, received, attempts::jsonb, secret, test, state, reason,
        tried, possibly, due, queued, ended, keys, bytes,
        CASE WHEN lease_ends IS NOT NULL THEN $19::bigint END, lease_ends, lease_ends IS NOT NULL,
        $20::bigint
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::text[], $8::boolean[], $9::text[], $10::text[], $11::integer[], $12::boolean[],
        $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bigint[], $18::bigint[])
        AS r (id, route, event_id, event_type, received, attempts, secret, test, state, reason,
            tried, possibly, due, queued, ended, keys, bytes, lease_ends)
    RETURNING id, identity;

WITH clock AS MATERIALIZED (SELECT * FROM hookstile.clock),
changed AS (
    UPDATE hookstile.deliveries d SET state = r.state, tried = r.tried, reason = r.reason,
        possibly_delivered = r.possibly, keys = r.keys, payload_bytes = r.bytes,
        attempts = r.attempts::jsonb, due_ms = clock.due + r.due, ended_ms = clock.now + r.ended,
        lease_owner = NULL, lease_ends_ms = NULL, begun = false, recorded_by = $11
    FROM clock, unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[],
        $6::boolean[], $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[], $12::uuid[],
        $13::integer[], $14::bigint[])
        AS r (id, attempts, state, reason, tried, possibly, keys, bytes, due, ended, identity,
            tried_before, queued)
    WHERE d.id = r.id AND d.id = ANY($1) AND d.state || '' = 'pending' AND d.lease_owner = $11
        AND d.tried = r.tried_before AND d.queued_ms IS NOT DISTINCT FROM r.queued
        AND coalesce(d.identity, '00000000-0000-0000-0000-000000000000') = r.identity
    RETURNING d.id)
SELECT hookstile.check_all(count(*), cardinality($1)) FROM changed;

UPDATE hookstile.deliveries d SET state = r.state, tried = r.tried, reason = r.reason,
        possibly_delivered = r.possibly, keys = r.keys, payload_bytes = r.bytes,
        attempts = r.attempts::jsonb, due_ms = r.due, queued_ms = r.queued, ended_ms = r.ended,
        lease_owner = CASE WHEN r.keeps THEN d.lease_owner END,
        lease_ends_ms = CASE WHEN r.keeps THEN d.lease_ends_ms END,
        begun = r.keeps AND d.begun, recorded_by = coalesce(r.recorded_by, d.recorded_by)
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::boolean[],
        $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::boolean[],
        $13::bigint[])
        AS r (id, attempts, state, reason, tried, possibly, keys, bytes, due, ended, queued, keeps,
            recorded_by)
    WHERE d.id = r.id AND d.id = ANY($1);

INSERT INTO hookstile.payloads SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])
    ON CONFLICT (delivery) DO UPDATE SET head = excluded.head, body = excluded.body;

DELETE FROM hookstile.payloads WHERE delivery = ANY($1);

INSERT INTO hookstile.route_counts AS c
    SELECT route, $8::smallint, pending, dead, kept, waiting,
        CASE WHEN succeeded THEN clock.ms END, CASE WHEN failed THEN clock.ms END
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS clock, unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[],
        $7::boolean[])
        AS r (route, pending, dead, kept, waiting, succeeded, failed) ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = c.pending + excluded.pending,
        dead = c.dead + excluded.dead, kept_bytes = c.kept_bytes + excluded.kept_bytes,
        waiting_bytes = c.waiting_bytes + excluded.waiting_bytes,
        last_success_ms = coalesce(excluded.last_success_ms, c.last_success_ms),
        last_failure_ms = coalesce(excluded.last_failure_ms, c.last_failure_ms);

INSERT INTO hookstile.days AS d
    SELECT route, day, $6::smallint, successful, failed, total
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS r (route, day, successful, failed, total) ORDER BY route, day
    ON CONFLICT (route, day, part) DO UPDATE SET successful = d.successful + excluded.successful,
        failed = d.failed + excluded.failed, total_ms = d.total_ms + excluded.total_ms;

COMMIT;

BEGIN;

COMMIT;

-- src/store/postgres/schema.rs

-- One row: the store's header. `uptime_ms` is the time during which at least one gateway ran, up to
-- `ticked_at`; `downtime_ms` the time during which none did. `revision` counts operator changes.
-- `incarnation` is random, and changes when the server is promoted, that is when its timeline is not
-- `timeline` any more.
CREATE TABLE hookstile.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL,
    hash_key uuid NOT NULL, uptime_ms bigint NOT NULL, downtime_ms bigint NOT NULL,
    ticked_at timestamptz NOT NULL, revision bigint NOT NULL,
    incarnation uuid DEFAULT gen_random_uuid(), timeline bigint
);
-- Gateways tick every second. A step of more than 5 s is downtime or a clock that was set, and
-- counts as 5 s.
CREATE VIEW hookstile.clock AS
    SELECT uptime_ms + step_ms AS now, uptime_ms + step_ms + downtime_ms AS due
    FROM hookstile.store, LATERAL (SELECT least(greatest(
        extract(epoch FROM clock_timestamp() - ticked_at) * 1000, 0)::bigint, 5000)) AS s (step_ms);
-- Fails a transaction whose rows another one has claimed meanwhile, so that it is retried.
CREATE FUNCTION hookstile.check_all(written bigint, wanted bigint) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN IF written <> wanted THEN RAISE EXCEPTION 'a row has changed'
        USING ERRCODE = 'serialization_failure'; END IF; END $$;
-- Event IDs. While `lease_ends_ms` is set, the gateway that knows the `token` is delivering the
-- event. A row with a digest is completed; one without had `attempts` failed attempts.
-- `ends_before_ms` is the expiry without the lease. `other` is not used. `route` is
-- NULL until the row is settled.
CREATE TABLE hookstile.ledger (
    key uuid PRIMARY KEY, token bigint NOT NULL, lease_ends_ms bigint, forwards boolean NOT NULL,
    ends_ms bigint NOT NULL, ends_before_ms bigint NOT NULL, attempts integer NOT NULL,
    possibly_delivered boolean NOT NULL, digest uuid, delivery bigint, other uuid,
    route text
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX ledger_ends ON hookstile.ledger (ends_ms ASC);
CREATE SEQUENCE hookstile.delivery_numbers;
-- Deliveries: all attempts for one event on one route. `lease_owner` may attempt a pending one
-- until `lease_ends_ms`; `begun` means that it may have sent something. `lease_batch` is the owner's
-- number of the statement that leased it. `recorded_by` is the
-- gateway that recorded the last attempt. `identity` tells it from another one that had the same
-- number before a failover.
CREATE TABLE hookstile.deliveries (
    id bigint PRIMARY KEY, route text NOT NULL, event_id text NOT NULL, event_type text NOT NULL,
    received_ms bigint NOT NULL, state text NOT NULL, reason text, tried integer NOT NULL,
    possibly_delivered boolean NOT NULL, attempts jsonb NOT NULL, payload_bytes bigint NOT NULL,
    due_ms bigint, queued_ms bigint, ended_ms bigint, keys bytea, secret text,
    test boolean NOT NULL, lease_owner bigint, lease_ends_ms bigint,
    begun boolean NOT NULL DEFAULT false, recorded_by bigint,
    identity uuid DEFAULT gen_random_uuid(), lease_batch bigint
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX deliveries_of_route ON hookstile.deliveries (route ASC, id ASC);
CREATE INDEX deliveries_due ON hookstile.deliveries (route ASC, due_ms ASC, id ASC)
    WHERE state = 'pending';
CREATE INDEX deliveries_ended ON hookstile.deliveries (route ASC, ended_ms ASC)
    WHERE state IN ('success', 'failed');
CREATE INDEX deliveries_open ON hookstile.deliveries (route ASC, state ASC, id ASC)
    WHERE state <> 'success';
CREATE TABLE hookstile.payloads (delivery bigint PRIMARY KEY, head bytea NOT NULL,
    body bytea NOT NULL)
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE hookstile.payloads ALTER head SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
CREATE TABLE hookstile.routes (name text PRIMARY KEY, created_ms bigint NOT NULL);
-- Counts, in parts that are added up, so that no writer waits for another's commit. `kept_bytes`
-- counts records that may be deleted, `waiting_bytes` the others.
CREATE TABLE hookstile.route_counts (
    route text, part smallint, pending bigint NOT NULL, dead bigint NOT NULL,
    kept_bytes bigint NOT NULL, waiting_bytes bigint NOT NULL,
    last_success_ms bigint, last_failure_ms bigint, PRIMARY KEY (route, part)
) WITH (fillfactor = 50);
CREATE TABLE hookstile.days (
    route text, day bigint, part smallint, successful bigint NOT NULL, failed bigint NOT NULL,
    total_ms bigint NOT NULL, PRIMARY KEY (route, day, part)
) WITH (fillfactor = 50);
-- Operator data: webhooks made over the API (the definition includes the secret), and paused
-- routes.
CREATE TABLE hookstile.webhooks (name text PRIMARY KEY, definition text NOT NULL);
CREATE TABLE hookstile.paused (route text PRIMARY KEY);;

-- The last active settings of each route, which apply to its records and events when no gateway has
-- it configured any more. `max_bytes` is NULL for no limit.
CREATE TABLE hookstile.route_settings (route text PRIMARY KEY, keep_ms bigint NOT NULL,
    max_bytes bigint, horizon_ms bigint NOT NULL);
-- The gateways, each with the routes that it has configured, and the store's time at which it was
-- last seen.
CREATE TABLE hookstile.gateways (owner bigint PRIMARY KEY, seen_ms bigint NOT NULL,
    routes text[] NOT NULL) WITH (fillfactor = 50);;

CREATE TABLE hookstile.incidents (
    key text PRIMARY KEY, id text NOT NULL DEFAULT md5(random()::text || clock_timestamp()::text),
    document text NOT NULL, severity smallint NOT NULL, told smallint NOT NULL DEFAULT 0,
    seen_ms bigint NOT NULL, ended_ms bigint, lease_ends_ms bigint) WITH (fillfactor = 50);;

-- Creations of webhooks under a client's key, each with the digest of its request and the definition
-- as it was created, for 24 hours of uptime.
CREATE TABLE hookstile.creations (
    key text PRIMARY KEY, request bytea NOT NULL, webhook text NOT NULL, definition text NOT NULL,
    ends_ms bigint NOT NULL);
CREATE INDEX creations_ends ON hookstile.creations (ends_ms ASC);;

CREATE TABLE hookstile.redelivery (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), document text NOT NULL,
    running boolean NOT NULL, owner bigint NOT NULL, lease_ends_ms bigint NOT NULL)
    WITH (fillfactor = 50);;

SELECT to_regclass('hookstile.store') IS NOT NULL;

SELECT max(version) FROM hookstile.store;

SHOW server_encoding;

SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '60s';

SELECT pg_advisory_xact_lock($1);

SELECT to_regclass('hookstile.store') IS NOT NULL;

SELECT version, hash_key FROM hookstile.store;

SELECT count(*) > 0 FROM pg_attribute WHERE attname = '{column}'
             AND attrelid = 'hookstile.{table}'::regclass;

BEGIN; SET LOCAL lock_timeout = '{COLUMN_LOCK_TIMEOUT}';
             ALTER TABLE hookstile.{table} ADD COLUMN IF NOT EXISTS {column} {kind};

ROLLBACK;

SELECT to_regclass('hookstile.{table}') IS NOT NULL;

SELECT to_regnamespace('hookstile') IS NOT NULL;

CREATE SCHEMA hookstile;

INSERT INTO hookstile.store VALUES (true, $1, $2, 0, 0, clock_timestamp(), 0);

SELECT current_setting('synchronous_commit'), current_setting('fsync'),
             current_setting('full_page_writes'), current_setting('synchronous_standby_names'),
             (SELECT count(*) FROM pg_stat_replication);

-- src/store/postgres/session.rs

SELECT current_setting('hookstile.session', true);

SELECT pg_is_in_recovery(),
    CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END;

SELECT version, hash_key, incarnation, timeline, uptime_ms + downtime_ms
    FROM hookstile.store;

SELECT set_config(name, value, false) FROM (VALUES {}) AS v (name, value)
             WHERE current_setting(name, true) IS NOT NULL;

BEGIN; SET LOCAL synchronous_commit = local;
             UPDATE hookstile.store SET incarnation = gen_random_uuid(), timeline = {promoted}
                WHERE timeline IS DISTINCT FROM {promoted};
             COMMIT;

-- src/store/postgres/upkeep.rs

UPDATE hookstile.store SET ticked_at = clock_timestamp(),
        uptime_ms = uptime_ms + least(greatest(
            extract(epoch FROM clock_timestamp() - ticked_at) * 1000, 0)::bigint, 5000),
        downtime_ms = downtime_ms + greatest(
            extract(epoch FROM clock_timestamp() - ticked_at) * 1000 - 5000, 0)::bigint
        WHERE ticked_at NOT BETWEEN clock_timestamp() - interval '900 milliseconds'
            AND clock_timestamp();

SELECT revision, due, current_setting('hookstile.session', true), incarnation,
        uptime_ms + downtime_ms FROM hookstile.store, hookstile.clock;

SELECT (SELECT greatest(n_live_tup, 0)::bigint FROM pg_stat_user_tables
            WHERE schemaname = 'hookstile' AND relname = 'ledger'),
        (SELECT sum(pg_total_relation_size(c.oid))::bigint
            FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'hookstile' AND relkind = 'r'),
        (SELECT sum(kept_bytes + waiting_bytes)::bigint FROM hookstile.route_counts);

SELECT route, count(*) FROM hookstile.ledger TABLESAMPLE SYSTEM ($1) GROUP BY route;

SELECT pg_try_advisory_lock($1);

DELETE FROM hookstile.ledger WHERE key IN (SELECT key FROM hookstile.ledger
        WHERE ends_ms <= (SELECT now FROM hookstile.clock)
        AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
        ORDER BY ends_ms LIMIT {ROWS_PER_DELETE} FOR UPDATE SKIP LOCKED);

SELECT route, sum(kept_bytes)::bigint FROM hookstile.route_counts GROUP BY route
            HAVING sum(kept_bytes) > 0;

SELECT pg_advisory_unlock($1);

DELETE FROM hookstile.creations WHERE ends_ms <= (SELECT now FROM hookstile.clock)
        OR ends_ms <= (SELECT ends_ms FROM hookstile.creations ORDER BY ends_ms DESC
            OFFSET $1 LIMIT 1);

WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
first AS (SELECT id, ended_ms,
        sum($4 + payload_bytes) OVER (ORDER BY ended_ms, id) - ($4 + payload_bytes) AS freed
    FROM (SELECT id, ended_ms, payload_bytes FROM hookstile.deliveries
        WHERE route = $1 AND state IN ('success', 'failed')
        ORDER BY ended_ms LIMIT 500) AS oldest),
deleted AS (DELETE FROM hookstile.deliveries d USING first, clock WHERE d.id = first.id
    AND state IN ('success', 'failed')
    AND (first.ended_ms <= now - $2 OR first.freed < $3::bigint)
    RETURNING d.id, $4 + d.payload_bytes AS bytes),
dropped AS (DELETE FROM hookstile.payloads p USING deleted WHERE p.delivery = deleted.id),
counted AS (INSERT INTO hookstile.route_counts AS c SELECT $1, 0, 0, 0, -sum(bytes)::bigint, 0
    FROM deleted HAVING count(*) > 0
    ON CONFLICT (route, part) DO UPDATE SET kept_bytes = c.kept_bytes + excluded.kept_bytes)
SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM deleted;

-- src/store/postgres/write.rs

SELECT key, token, lease_ends_ms IS NOT NULL,
        CASE WHEN ends_ms > (SELECT now FROM hookstile.clock) THEN digest END, delivery
    FROM hookstile.ledger WHERE key = ANY($1) ORDER BY key FOR UPDATE;

SELECT nextval('hookstile.delivery_numbers') FROM generate_series(1, $1::integer);

SELECT now, due, coalesce((SELECT part FROM generate_series(1, 32) AS part
        WHERE pg_try_advisory_xact_lock(1752131427, part) LIMIT 1), 1)
        ::smallint FROM hookstile.clock;

BEGIN;

BEGIN; SET LOCAL statement_timeout = {};
             SET LOCAL idle_in_transaction_session_timeout = {};

-- src/store/postgres.rs

DELETE FROM hookstile.ledger l USING unnest($1::uuid[], $2::bigint[]) AS r (key, token)
            WHERE l.key = r.key AND l.token = r.token;
