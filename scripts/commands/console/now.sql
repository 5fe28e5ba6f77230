-- The last events, whatever became of them: rows, and rejected events with the beginning of their text.
WITH events AS (
    SELECT received_at, 'row' AS outcome, name, action, value, user_id, substr(properties, 1, 400) AS content, event_id
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '1' day, '%Y-%m-%d')
    UNION ALL
    SELECT received_at, 'rejected: ' || reason AS outcome, NULL AS name, NULL AS action, NULL AS value, NULL AS user_id,
        substr(from_utf8(from_base64(body)), 1, 400) AS content, event_id
    FROM "${AthenaDatabaseName}"."${AthenaTableName}_rejected"
    WHERE dt >= date_format(current_date - interval '1' day, '%Y-%m-%d') AND part = 1
)
SELECT received_at, outcome, name, action, value, user_id, content, event_id
FROM events
ORDER BY received_at DESC, event_id
LIMIT 20
