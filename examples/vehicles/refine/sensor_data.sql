-- target: sensor_data
-- zone: processed
-- needs: vehicles
-- partitions: dt, vehicle_type
-- days: 20
--
-- A row for each measurement, on its day, with the type of its vehicle, which may have been created on any day before.
WITH deliveries AS (
    SELECT source, value, occurred_at,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at DESC, dt DESC) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= '${from}' AND name = 'measurement'
)
SELECT
    vehicles.vehicle_id,
    deliveries.occurred_at AS measured_at,
    deliveries.value AS sensor_value,
    date_format(deliveries.occurred_at, '%Y-%m-%d') AS dt,
    vehicles.vehicle_type
FROM deliveries
JOIN vehicles ON vehicles.vehicle_id = deliveries.source
WHERE delivery = 1 AND CAST(deliveries.occurred_at AS date) BETWEEN date '${from}' AND date '${to}'
