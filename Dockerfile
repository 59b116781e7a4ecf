# The proxy alone, for docker-compose.yml. Its configuration is mounted at /etc/trunkline.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin trunkline

FROM debian:bookworm-slim
RUN useradd --system --no-create-home trunkline
COPY --from=build /src/target/release/trunkline /usr/local/bin/trunkline
USER trunkline
EXPOSE 6432 6433
STOPSIGNAL SIGTERM
ENTRYPOINT ["trunkline"]
CMD ["run", "-c", "/etc/trunkline/docker.toml"]
