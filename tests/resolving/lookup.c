/* Prints the addresses of a name, as the C library that this is linked with finds them. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = argc == 2 ? getaddrinfo(argv[1], "80", &hints, &found) : EAI_FAIL;
    if (error) {
        puts(gai_strerror(error));
        return 1;
    }
    for (; found; found = found->ai_next) {
        char text[INET6_ADDRSTRLEN];
        if (getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0)
            puts(text);
    }
    return 0;
}
