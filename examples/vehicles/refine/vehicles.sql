-- target: vehicles
-- zone: processed
-- partitions: dt
-- moves: yes
--
-- A row for each vehicle, on the day on which it was created. What was pulled last of it counts, because the source
-- revises its rows: also the day, so that a run makes the day anew that the vehicle leaves. The day before is read because
-- an object has the dt of its oldest row.
WITH deliveries AS (
    SELECT source, occurred_at, properties,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at DESC, request_id DESC, source, occurred_at, properties) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '1' day, '%Y-%m-%d') AND name = 'vehicle'
)
SELECT
    source AS vehicle_id,
    json_extract_scalar(properties, '$.vehicle_name') AS vehicle_name,
    json_extract_scalar(properties, '$.vehicle_type') AS vehicle_type,
    occurred_at AS created_at,
    date_format(occurred_at, '%Y-%m-%d') AS dt
FROM deliveries
WHERE delivery = 1 AND CAST(occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
