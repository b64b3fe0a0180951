"""Stands between a client and a database with a certificate of its own, and reads everything: PORT DATABASE CERTIFICATE KEY
[strip]. With `strip` it takes the mechanism that is bound to the certificate off the server's offer."""

import socket
import ssl
import sys
import threading

PORT, DATABASE, CERTIFICATE, KEY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
STRIP = sys.argv[5:] == ["strip"]
BOUND, PLAIN = b"SCRAM-SHA-256-PLUS\0", b"SCRAM-SHA-256\0"
TLS_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"


def without_bound(chunk):
    offer = b"\0\0\0\x0a" + BOUND + PLAIN + b"\0"
    left = b"\0\0\0\x0a" + PLAIN + b"\0"
    whole = b"R" + (len(offer) + 4).to_bytes(4, "big") + offer
    return chunk.replace(whole, b"R" + (len(left) + 4).to_bytes(4, "big") + left)


def pump(source, sink, change):
    try:
        while chunk := source.recv(65536):
            sink.sendall(change(chunk))
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def stand(client):
    assert client.recv(8, socket.MSG_WAITALL) == TLS_REQUEST
    client.sendall(b"S")
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mine.load_cert_chain(CERTIFICATE, KEY)
    client = mine.wrap_socket(client, server_side=True)
    database = socket.create_connection(("127.0.0.1", DATABASE))
    database.sendall(TLS_REQUEST)
    assert database.recv(1) == b"S"
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    database = anyone.wrap_socket(database)
    threading.Thread(target=pump, args=(client, database, bytes), daemon=True).start()
    pump(database, client, without_bound if STRIP else bytes)


server = socket.create_server(("127.0.0.1", PORT))
print("ready", flush=True)
while True:
    threading.Thread(target=stand, args=(server.accept()[0],), daemon=True).start()
