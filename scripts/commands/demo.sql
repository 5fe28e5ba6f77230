-- The query that scripts/demo.sh saves beside those of queries.sql.

-- daily-mean-temperature-in-celsius: How warm was each day?
-- Events named temperature with degrees Fahrenheit as their value, by the day on which they were measured.
-- Reads every partition: measurements of any year may have been delivered on any day.
WITH deliveries AS (
    SELECT name, value, occurred_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
)
SELECT CAST(occurred_at AS date) AS day, round((avg(value) - 32) * 5 / 9, 1) AS celsius, count(*) AS readings
FROM deliveries WHERE delivery = 1 AND name = 'temperature' AND value IS NOT NULL
GROUP BY CAST(occurred_at AS date)
ORDER BY day;
