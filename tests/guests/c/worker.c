// A worker in C, on WASI 0.2: says hello, writes and reads files, talks to a server, and waits for
// the end of its stdin, which is how a dyno is told to stop.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// The headers in Debian are older than the C library it is linked with, and lack these.
struct addrinfo {
    int ai_flags, ai_family, ai_socktype, ai_protocol;
    socklen_t ai_addrlen;
    struct sockaddr *ai_addr;
    char *ai_canonname;
    struct addrinfo *ai_next;
};
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found);
void freeaddrinfo(struct addrinfo *found);
int socket(int domain, int type, int protocol);
int connect(int fd, const struct sockaddr *address, socklen_t length);

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static int file(const char *path) {
    FILE *out = fopen(path, "w");
    if (!out) return fail(path);
    fprintf(out, "written by C");
    if (fclose(out)) return fail(path);
    char text[64] = {0};
    FILE *in = fopen(path, "r");
    if (!in) return fail(path);
    fread(text, 1, sizeof text - 1, in);
    fclose(in);
    printf("%s: %s\n", path, text);
    return 0;
}

static int talk(const char *host, const char *port, const char *text) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    int code = getaddrinfo(host, port, &hints, &found);
    if (code) {
        fprintf(stderr, "%s: not found (%d)\n", host, code);
        return 1;
    }
    int fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (fd < 0) return fail("socket");
    if (connect(fd, found->ai_addr, found->ai_addrlen)) return fail("connect");
    freeaddrinfo(found);
    size_t length = strlen(text);
    if (write(fd, text, length) != (ssize_t)length) return fail("write");
    char answer[256] = {0};
    ssize_t got = read(fd, answer, sizeof answer - 1);
    if (got < 0) return fail("read");
    printf("answer: %s\n", answer);
    close(fd);
    return 0;
}

static int wait_for_stop(void) {
    char buffer[64];
    while (read(0, buffer, sizeof buffer) > 0) {
    }
    printf("stopping\n");
    return 0;
}

int main(int count, char **args) {
    const char *dyno = getenv("DYNO");
    printf("hello from C in %s\n", dyno ? dyno : "no dyno");
    fflush(stdout);
    if (count == 3 && !strcmp(args[1], "file")) return file(args[2]);
    if (count == 5 && !strcmp(args[1], "talk")) return talk(args[2], args[3], args[4]);
    if (count == 2 && !strcmp(args[1], "wait")) return wait_for_stop();
    if (count == 2 && !strcmp(args[1], "fail")) exit(7);
    return count == 1 ? 0 : 2;
}
