-- target: vehicles
-- zone: processed
-- partitions: dt, vehicle_type
-- days: 20
--
-- A row for each vehicle, on the day on which it was created; what came last of it counts.
WITH deliveries AS (
    SELECT source, occurred_at, properties,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at DESC, dt DESC) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= '${from}' AND name = 'vehicle'
)
SELECT
    source AS vehicle_id,
    json_extract_scalar(properties, '$.vehicle_name') AS vehicle_name,
    occurred_at AS created_at,
    date_format(occurred_at, '%Y-%m-%d') AS dt,
    json_extract_scalar(properties, '$.vehicle_type') AS vehicle_type
FROM deliveries
WHERE delivery = 1 AND CAST(occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
