#!/usr/bin/env bash
# Saves what a stack of Compose has learnt and been given, and brings it back: `backup.sh create|restore FOLDER`.
# A stack of other files than docker-compose.yml is named by COMPOSE_FILE, as for docker compose itself.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: deploy/backup.sh create|restore FOLDER"
action=${1:?$usage}
# From where it was called, which Bash still knows.
folder=$(cd "$OLDPWD" && realpath -m "${2:?$usage}")
# Training runs; indexes, and those that take changes; which checkpoints were promoted; keys, limits and cached results.
volumes=(runs indexes changing generator-state redis-data)
project=$(docker compose config | sed -n 's/^name: //p')
image=$(docker compose config --images redis)

# Runs a command as root in a container that sees one volume and nothing else.
beside() {
    docker run --rm -i --network none --user root --entrypoint "$2" -v "${project}_$1:/volume" "$image" "${@:3}"
}

# Writes a volume's archive. tar's status 1 says that a file changed while it was read, as those of a running stack do.
save() {
    beside "$1" tar --create --gzip --directory /volume . >"$folder/$1.part" || [[ $? == 1 ]]
    gzip --test <"$folder/$1.part" # so that a disk that is full is noticed now
}

paused=
clean_up() {
    rm -f "$folder"/*.part
    [[ -z $paused ]] || docker compose unpause redis
}

case $action in
create)
    umask 077 # archives hold digests of keys, questions and passages
    mkdir -p "$folder"
    for volume in "${volumes[@]}"; do
        [[ ! -e $folder/$volume.tar.gz ]] || { echo "$folder holds a backup; name another folder" >&2; exit 1; }
    done
    trap clean_up EXIT
    running=$(docker compose ps --quiet --status running redis)
    for volume in "${volumes[@]}"; do
        if [[ $volume == redis-data && $running ]]; then
            paused=yes # copied while Redis stands still, the files are as a crash would leave them
            docker compose pause redis
        fi
        save "$volume"
    done
    for volume in "${volumes[@]}"; do
        sync "$folder/$volume.part"
        mv "$folder/$volume.part" "$folder/$volume.tar.gz"
    done
    sync "$folder"
    ;;
restore)
    for volume in "${volumes[@]}"; do gzip --test "$folder/$volume.tar.gz"; done
    docker compose down
    docker compose create # the volumes, if this is a new machine
    for volume in "${volumes[@]}"; do
        beside "$volume" find /volume -mindepth 1 -delete
        beside "$volume" tar --extract --gzip --directory /volume <"$folder/$volume.tar.gz"
    done
    docker compose up --detach --wait
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
