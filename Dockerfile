# nginx and server in one container: docker run -p 8080:8080 -v images:/data IMAGE
# With -e OS_AUTH_URL=… and the other OS_ variables Swift keeps the images.
FROM debian:12-slim
ENV PIP_NO_CACHE_DIR=1
COPY . /opt/image-repo
RUN /opt/image-repo/scripts/setup serve && rm -rf /var/lib/apt/lists/* \
    && useradd --system image-repo && install -d -o image-repo /data
# Below it is the default directory, `data`.
WORKDIR /
USER image-repo
VOLUME /data
EXPOSE 8080
CMD ["/opt/image-repo/scripts/serve", "--bind", "0.0.0.0"]
