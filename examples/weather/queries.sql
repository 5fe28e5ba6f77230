-- The saved queries of this example. scripts/deploy.sh --queries adds them to those of queries.sql.

-- weather-quality: How much weather is there, and how complete is it?
SELECT
    count(*) AS total_rows,
    count_if(is_complete) AS complete_rows,
    round(100e0 * count_if(is_complete) / count(*), 2) AS completeness_rate,
    count(*) - count(temperature_avg) AS null_temperature_count,
    count(*) - count(precipitation) AS null_precipitation_count,
    round(avg(data_quality_score), 2) AS data_quality_score,
    min(dt) AS first_day,
    max(dt) AS last_day
FROM sensor_days;

-- weather-events: How many events were pulled, of how many days of sensors, and how many of them are refined?
SELECT
    count(*) AS events,
    count(DISTINCT event_id) AS sensor_days,
    (SELECT count(*) FROM sensor_days) AS rows_refined
FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE name = 'weather';

-- weather-by-category: How many days of sensors were how warm, and how wet?
SELECT
    temp_category,
    count_if(precipitation_level = 'none') AS none,
    count_if(precipitation_level = 'light') AS light,
    count_if(precipitation_level = 'moderate') AS moderate,
    count_if(precipitation_level = 'heavy') AS heavy,
    count_if(precipitation_level = 'extreme') AS extreme,
    count(*) AS sensor_days
FROM sensor_days
GROUP BY temp_category
ORDER BY min(temperature_avg);

-- weather-of-sensors: What did the sensors of a region say on a day?
-- The region and the day are parameters, such as ZONE_2_1 and 2014-01-15.
SELECT dt, sensor_id, region, temperature_max, temperature_max_f, temperature_avg, temp_category, precipitation,
    precipitation_level, data_quality_score, region_avg_temp, region_total_precipitation
FROM sensor_days
WHERE region = ? AND dt = ?
ORDER BY sensor_id;

-- weather-weeks: Which was the wettest week, and where was it wettest?
WITH weeks AS (
    SELECT dt AS week_until, region, week_precipitation, week_temperature_avg, warmest,
        row_number() OVER (PARTITION BY region ORDER BY week_precipitation DESC, dt) AS wettest
    FROM region_days
)
SELECT week_until, region, week_precipitation, week_temperature_avg, warmest
FROM weeks
WHERE wettest = 1
ORDER BY week_precipitation DESC, region, week_until
LIMIT 5;
