"""The human study: blind best/worst rating in the browser.

`build` picks items and hides which system made which image, `server` asks people, `report` analyses their answers.
What the server may know is in `study.json`; what tells the systems apart is in `key.json`, which only the report reads.
"""
