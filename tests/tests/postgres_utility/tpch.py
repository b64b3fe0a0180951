# The 22 queries of TPC-H, each as psycopg2 sends it: a simple query.
import pathlib

import psycopg2
from steps import failed, said

connection = psycopg2.connect("")
connection.autocommit = True
for path in sorted((pathlib.Path(__file__).parent / "tpch").glob("*.sql")):
    cursor = connection.cursor()
    try:
        cursor.execute(path.read_text())
        said(path.stem, cursor.fetchall())
    except psycopg2.Error as error:
        failed(path.stem, error)
