#!/bin/sh
# Use a server for as long as a script runs, and leave nothing of it, whatever happens.
#
#     sh command.sh
set -eu

REBORN_HOME=$(mktemp -d)
export REBORN_HOME
trap 'reborn stop web; rm -r "$REBORN_HOME"' EXIT

# Comes back when the server serves; otherwise it says why, and the script ends here.
reborn start web --ready log:Serving -- python -u -m http.server --bind 127.0.0.1 0
port=$(reborn logs web | sed -n 's/^Serving.* port \([0-9]*\).*/\1/p')

echo 'Hello from a daemon.' >hello.txt
python -c "import urllib.request as r; print(r.urlopen('http://127.0.0.1:$port/hello.txt').read())"
rm hello.txt
reborn logs web -n 1
