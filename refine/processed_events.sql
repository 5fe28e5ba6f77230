-- target: processed_events
-- zone: processed
-- partitions: dt
-- received: first_received_at
--
-- One row an event, on the day on which it happened. The latest delivery of an event_id wins, so that a sender corrects
-- an event by sending it again. dt of the events table is the day of delivery: an event of ${from} may have been
-- delivered on any later day, and a day earlier if the sender's clock was fast, so that all days from then on are read.
WITH deliveries AS (
    SELECT event_id, name, action, value, source, user_id, occurred_at, received_at, clock_skew_ms, properties, ip,
        user_agent, request_id,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at DESC, request_id DESC, dt DESC) AS delivery,
        count(*) OVER (PARTITION BY event_id) AS deliveries,
        min(received_at) OVER (PARTITION BY event_id) AS first_received_at
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '1' day, '%Y-%m-%d')
)
SELECT
    event_id,
    name,
    action,
    value,
    source,
    user_id,
    occurred_at,
    date_trunc('hour', occurred_at) AS occurred_hour,
    received_at,
    date_diff('second', occurred_at, received_at) AS delay_seconds,
    CAST(received_at AS date) > CAST(occurred_at AS date) AS is_late,
    -- What a row is worth to somebody who counts: who, what and where, and a time that the sender gave and that is true.
    CASE WHEN name IS NULL THEN 0 ELSE 25 END
        + CASE WHEN action IS NULL THEN 0 ELSE 15 END
        + CASE WHEN source IS NULL THEN 0 ELSE 15 END
        + CASE WHEN user_id IS NULL AND value IS NULL THEN 0 ELSE 15 END
        + CASE WHEN clock_skew_ms IS NULL THEN 0 ELSE 15 END
        + CASE WHEN clock_skew_ms > 60000 THEN 0 ELSE 15 END AS quality_score,
    deliveries,
    first_received_at,
    properties,
    ip,
    user_agent,
    request_id,
    date_format(occurred_at, '%Y-%m-%d') AS dt
FROM deliveries
WHERE delivery = 1 AND CAST(occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
