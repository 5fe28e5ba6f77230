-- target: processed_events
-- zone: processed
-- partitions: dt
-- received: received_at
--
-- One row an event, on the day on which it happened. Of the rows of one event_id the first received counts: a row is a
-- copy if another was received before it, and at most seven days before its event happened. (An event of a fast clock
-- happened when it was received, for this.) Every run looks back that far, whichever days it makes, so that a day comes
-- out the same each time. dt of the events table is the day of delivery: an event of ${from} may have been delivered on
-- any later day. The eighth day back is read because an object has the dt of its oldest row.
WITH deliveries AS (
    SELECT event_id, name, action, value, source, user_id, occurred_at, received_at, clock_skew_ms, properties, ip,
        user_agent, request_id, anonymous_id, session_id, path, referrer, visitor_id,
        coalesce(lag(received_at) OVER copies < least(occurred_at, received_at) - interval '7' day, true) AS is_first,
        count(*) OVER (copies ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS deliveries
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '8' day, '%Y-%m-%d')
    WINDOW copies AS (PARTITION BY event_id ORDER BY received_at, request_id, name, action, value, source, user_id,
        occurred_at, clock_skew_ms, properties, ip, user_agent, anonymous_id, session_id, path, referrer, visitor_id)
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
    properties,
    ip,
    user_agent,
    request_id,
    anonymous_id,
    session_id,
    path,
    referrer,
    visitor_id,
    date_format(occurred_at, '%Y-%m-%d') AS dt
FROM deliveries
WHERE is_first AND CAST(occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
