-- target: device_days
-- zone: curated
-- needs: processed_data
-- partitions: dt
--
-- Each device each day, with what it said last: one row to look at instead of its readings.
WITH readings AS (
    SELECT
        dt, source, device_id, location, firmware_version, temperature, humidity, measured_at,
        row_number() OVER (PARTITION BY dt, source, device_id ORDER BY measured_at DESC, record_id) AS latest,
        count(*) OVER (PARTITION BY dt, source, device_id) AS readings
    FROM processed_data
    WHERE dt BETWEEN '${from}' AND '${to}' AND device_id IS NOT NULL
)
SELECT source, device_id, location, firmware_version, readings, temperature, humidity, measured_at AS last_at, dt
FROM readings
WHERE latest = 1
