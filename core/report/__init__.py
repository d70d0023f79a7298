"""What a person reads of a measurement: tables, pictures, the JSON file with all the numbers, and the HTML page."""
