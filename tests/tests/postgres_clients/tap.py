# PORT: passes on what comes for the server there, and tells of each session of a client's which version was asked for, whether the
# server negotiated, and how long its key is; of each cancel request, how long the key is.
import socket
import struct
import sys
import threading

CANCEL = 80877102


def exactly(source, count):
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise ConnectionError("ended")
        data += more
    return data


def copy(source, destination):
    try:
        while data := source.recv(65536):
            destination.sendall(data)
    except OSError:
        pass
    for end in source, destination:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(gateway):
    head = exactly(gateway, 4)
    packet = exactly(gateway, struct.unpack(">I", head)[0] - 4)
    [code] = struct.unpack(">I", packet[:4])
    database = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    if code == CANCEL:
        print(f"cancelled by a key of {len(packet) - 8}")
    database.sendall(head + packet)
    threading.Thread(target=copy, args=(gateway, database), daemon=True).start()
    # The gateway's own have a name.
    if code != CANCEL and b"application_name\0weir" not in packet:
        told = [f"asked for {code >> 16}.{code & 0xFFFF}"]
        tag = b""
        while tag != b"Z":
            header = exactly(database, 5)
            tag, body = header[:1], exactly(database, struct.unpack(">I", header[1:])[0] - 4)
            if tag == b"v":
                told.append("negotiated")
            if tag == b"K":
                told.append(f"key of {len(body) - 4}")
            if tag == b"Z":
                print(", ".join(told))
            gateway.sendall(header + body)
    copy(database, gateway)


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
