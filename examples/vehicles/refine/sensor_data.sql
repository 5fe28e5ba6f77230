-- target: sensor_data
-- zone: processed
-- needs: vehicles
-- partitions: dt
--
-- A row for each measurement, on its day, with the type of its vehicle, which may have been created on any day before.
-- What was pulled last of it counts, because the source revises its rows.
WITH deliveries AS (
    SELECT source, value, occurred_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at DESC, request_id DESC, value, source, occurred_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date '${from}' - interval '1' day, '%Y-%m-%d') AND name = 'measurement'
)
SELECT
    vehicles.vehicle_id,
    vehicles.vehicle_type,
    deliveries.occurred_at AS measured_at,
    deliveries.value AS sensor_value,
    date_format(deliveries.occurred_at, '%Y-%m-%d') AS dt
FROM deliveries
JOIN vehicles ON vehicles.vehicle_id = deliveries.source
WHERE delivery = 1 AND CAST(deliveries.occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
