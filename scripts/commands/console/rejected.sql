-- Rejected events by reason: how many, and the three latest of each with their text and context.
WITH deliveries AS (
    SELECT reason, detail, event_id, "position", part, parts, body, received_at, ip, user_agent, request_id,
        coalesce(events, 1) AS events,
        row_number() OVER (PARTITION BY event_id, part ORDER BY received_at, request_id, reason, detail, "position",
            parts, events, body) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}_rejected"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
),
ranked AS (
    SELECT *,
        sum(events) OVER (PARTITION BY reason) AS of_reason,
        max(received_at) OVER (PARTITION BY reason) AS newest,
        row_number() OVER (PARTITION BY reason ORDER BY received_at DESC, event_id) AS latest
    FROM deliveries WHERE delivery = 1 AND part = 1
)
SELECT reason, of_reason, newest, detail, received_at, ip, user_agent, request_id, event_id, "position",
    length(from_base64(body)) AS bytes, parts, substr(from_utf8(from_base64(body)), 1, 2000) AS content
FROM ranked
WHERE latest <= 3
ORDER BY of_reason DESC, reason, latest
