/* The test guest's init: counts on its first disk, aloud on the serial console, and runs the guest agent. In C,
 * since each process that a shell starts takes milliseconds of a core under TCG, and all guests tick all the time.
 *
 * guest-image puts it into the initramfs as /init.
 *   /dev/vda is mounted on /mnt/a, /dev/vdb on /mnt/b, and so on.
 *   Console: "boot N vda=MARK vdb=MARK mem=KB", "resume N", then "tick N" ten times a second, each after N is on
 *   disk in /mnt/a/counter.
 *   "vmckpt.ballast=N" on the kernel's command line fills N MiB of memory first.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024 * 1024)

/* ---- Small things ---- */

/* Its first line, without blanks around it; empty if it has none. */
static bool
read_line(const char *path, char line[256])
{
    FILE *file = fopen(path, "re");
    char whole[256];

    line[0] = '\0';
    if (!file)
        return false;
    if (fgets(whole, sizeof whole, file) && sscanf(whole, " %255[^\n]", line) == 1)
        for (char *end = line + strlen(line); end > line && end[-1] == ' ';)
            *--end = '\0';
    fclose(file);
    return true;
}

static const char *
mark_of(const char *path, char line[256])
{
    return read_line(path, line) ? line : "-";
}

static unsigned long
number_of(const char *path)
{
    char line[256];

    read_line(path, line);
    return strtoul(line, NULL, 10);
}

/* In one sector, rewritten in place, so that it is never seen half written. */
static bool
put(const char *path, unsigned long number)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    bool done = fd >= 0 && dprintf(fd, "%15lu\n", number) == 16 && fdatasync(fd) == 0;

    return fd >= 0 && close(fd) == 0 && done;
}

static void
load(const char *name)
{
    char path[256];
    int fd;

    snprintf(path, sizeof path, "/modules/%s", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
        printf("error: cannot load %s\n", name);
    close(fd);
}

/* Those that are loaded "late" are what the power button needs, and no test waits for that. */
static void
load_modules(bool late)
{
    struct dirent **entries;
    int count = scandir("/modules", &entries, NULL, alphasort);

    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;

        if (name[0] != '.' && (strstr(name, "button") || strstr(name, "evdev")) == late)
            load(name);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

/* ---- What the guest has ---- */

/* A disk as a crash left it: mounting replays the journal. */
static void
mount_disks(void)
{
    mkdir("/mnt/a", 0755);
    for (char letter = 'a'; letter <= 'z'; letter++) {
        char device[] = "/dev/vdX", folder[] = "/mnt/X";

        device[7] = folder[5] = letter;
        if (access(device, F_OK) != 0)
            continue;
        mkdir(folder, 0755);
        if (mount(device, folder, "ext4", 0, NULL) != 0)
            printf("error: cannot mount %s: %m\n", device);
    }
}

static void
start_guest_agent(void)
{
    DIR *ports = opendir("/sys/class/virtio-ports");

    for (struct dirent *port; ports && (port = readdir(ports));) {
        char path[512], name[256];

        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port->d_name);
        if (!read_line(path, name) || strncmp(name, "org.qemu.guest_agent.", 21) != 0)
            continue;
        snprintf(path, sizeof path, "/dev/%s", port->d_name);
        if (fork() == 0) {
            int log = open("/run/qemu-ga.log", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

            dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
            dup2(log, 1);
            dup2(log, 2);
            execl("/bin/qemu-ga", "qemu-ga", "-m", "virtio-serial", "-p", path, "-t", "/run", NULL);
            _exit(127);
        }
    }
    if (ports)
        closedir(ports);
}

/* The same text again and again, as memory that compresses well. */
static void
fill_memory(void)
{
    static char block[MIB];
    static char line[4096];
    FILE *file = fopen("/proc/cmdline", "re");
    const char *word = file && fgets(line, sizeof line, file) ? strstr(line, "vmckpt.ballast=") : NULL;
    unsigned long left = word ? strtoul(word + strlen("vmckpt.ballast="), NULL, 10) : 0;
    int fd;

    if (file)
        fclose(file);
    if (left == 0)
        return;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = "ballast\n"[i % 8];
    fd = open("/tmp/ballast", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    while (left-- > 0 && write(fd, block, sizeof block) == sizeof block)
        ;
    close(fd);
}

static unsigned long
memory_kb(void)
{
    unsigned long kb = 0;
    FILE *file = fopen("/proc/meminfo", "re");

    if (file) {
        if (fscanf(file, "MemTotal: %lu", &kb) != 1)
            kb = 0;
        fclose(file);
    }
    return kb;
}

/* For shutdowns without the guest agent. */
static void
wait_for_power_button(void)
{
    struct pollfd devices[8];
    struct input_event event;

    if (fork() != 0)
        return;
    load_modules(true);
    for (int i = 0; i < 8; i++) { /* the keyboard is one of them */
        char path[32];

        snprintf(path, sizeof path, "/dev/input/event%d", i);
        devices[i] = (struct pollfd){open(path, O_RDONLY | O_CLOEXEC), POLLIN, 0}; /* -1: not waited for */
    }
    while (poll(devices, 8, -1) > 0)
        for (int i = 0; i < 8; i++)
            if (devices[i].revents && read(devices[i].fd, &event, sizeof event) == sizeof event &&
                event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                execl("/bin/off", "off", NULL);
    _exit(1);
}

/* ---- Counting ---- */

static void
tick(unsigned long number)
{
    if (put("/mnt/a/counter", number))
        printf("tick %lu\n", number);
    else
        printf("error: counter %lu was not written\n", number);
}

int
main(void)
{
    const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    char vda[256], vdb[256];
    unsigned long boots, count;

    setlinebuf(stdout);
    setenv("PATH", "/bin:/sbin", 1);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    load_modules(false);
    mount_disks();
    start_guest_agent();
    fill_memory();
    boots = number_of("/mnt/a/boots") + 1;
    put("/mnt/a/boots", boots);
    printf("boot %lu vda=%s vdb=%s mem=%lu\n", boots, mark_of("/mnt/a/mark", vda), mark_of("/mnt/b/mark", vdb),
           memory_kb());
    count = number_of("/mnt/a/counter");
    printf("resume %lu\n", count);
    tick(++count);
    wait_for_power_button();
    while (true) {
        nanosleep(&pause, NULL);
        tick(++count);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ; /* whatever ended: init is everybody's parent at last */
    }
}
