-- The saved query of this example. scripts/deploy.sh --queries adds it to those of queries.sql.

-- celsius-readings: Which readings of a time window were within a temperature range, in degrees Celsius?
-- Give the window's first moment, its end, and the least and the greatest temperature in degrees Celsius.
-- Reads every partition: what was measured in the window may have been delivered on any day.
WITH deliveries AS (
    SELECT event_id, name, source, occurred_at, round((value - 32) * 5 / 9, 1) AS celsius, "$path" AS object,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, "$path") AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
)
SELECT event_id, source AS sensor, occurred_at AS measured_at, celsius, object
FROM deliveries
WHERE delivery = 1 AND name = 'temperature' AND occurred_at >= ? AND occurred_at < ? AND celsius BETWEEN ? AND ?;
