-- The saved queries of this example. scripts/deploy.sh --queries adds them to those of queries.sql.

-- mean-gap-by-vehicle-type: How many seconds are there between two measurements, on average, by type of vehicle?
-- First the mean of each vehicle, then that of the vehicles of a type, so that one that measures more does not count
-- more. The gap over midnight is left out, as in each day's last measurement has none that follows.
WITH gaps AS (
    SELECT vehicle_id, vehicle_type,
        date_diff('millisecond', measured_at,
            lead(measured_at) OVER (PARTITION BY dt, vehicle_type, vehicle_id ORDER BY measured_at)) / 1000e0 AS seconds
    FROM sensor_data
    WHERE sensor_value IS NOT NULL
),
means AS (
    SELECT vehicle_id, vehicle_type, avg(seconds) AS seconds
    FROM gaps
    GROUP BY vehicle_id, vehicle_type
)
SELECT vehicle_type, count(*) AS vehicles, round(avg(seconds), 3) AS mean_gap_seconds
FROM means
GROUP BY vehicle_type
ORDER BY vehicle_type;

-- measurements-by-day-and-type: How many measurements are there of each day and type of vehicle?
-- Reads two columns of the days that there are.
SELECT dt, vehicle_type, count(*) AS measurements, count(sensor_value) AS measured
FROM sensor_data
GROUP BY dt, vehicle_type
ORDER BY dt, vehicle_type;
