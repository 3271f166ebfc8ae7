# nginx and server in one container: docker run -p 8080:8080 -v images:/data IMAGE
FROM debian:12-slim
ENV PIP_NO_CACHE_DIR=1
WORKDIR /opt/image-repo
COPY . .
RUN scripts/setup serve && rm -rf /var/lib/apt/lists/* \
    && useradd --system image-repo && install -d -o image-repo /data
USER image-repo
VOLUME /data
EXPOSE 8080
CMD ["scripts/serve", "--data", "/data", "--bind", "0.0.0.0"]
