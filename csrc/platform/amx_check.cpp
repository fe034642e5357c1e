#include "platform/amx_check.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__linux__)
#    include <dlfcn.h>
#    include <elf.h>
#endif

namespace mp {

#if defined(__linux__) && defined(__LP64__)

static bool read_at(FILE * file, uint64_t offset, void * data, size_t size) {
    return fseeko(file, (off_t) offset, SEEK_SET) == 0 && fread(data, 1, size, file) == size;
}

static std::string elf_comment(const char * path) {
    std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path, "rb"), fclose);
    Elf64_Ehdr header;
    if (!file || !read_at(file.get(), 0, &header, sizeof(header)) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr) ||
        header.e_shstrndx >= header.e_shnum) {
        return "";
    }
    std::vector<Elf64_Shdr> sections(header.e_shnum);
    if (!read_at(file.get(), header.e_shoff, sections.data(), sections.size() * sizeof(Elf64_Shdr))) {
        return "";
    }
    const auto text_of = [&](const Elf64_Shdr & section) {
        std::string text(section.sh_size < (1u << 20) ? section.sh_size : 0, '\0');
        return !text.empty() && read_at(file.get(), section.sh_offset, &text[0], text.size()) ? text : std::string();
    };
    const std::string names = text_of(sections[header.e_shstrndx]);
    for (const Elf64_Shdr & section : sections) {
        if (section.sh_name < names.size() && strcmp(names.c_str() + section.sh_name, ".comment") == 0) {
            return text_of(section).c_str(); // the first of its strings
        }
    }
    return "";
}

std::string compiler_of_library_at(const void * address) {
    Dl_info info;
    return dladdr(address, &info) && info.dli_fname ? elf_comment(info.dli_fname) : "";
}

#else

std::string compiler_of_library_at(const void *) {
    return "";
}

#endif

bool amx_compiler_is_safe(const std::string & comment) {
    if (comment.compare(0, 4, "GCC:") != 0) {
        return true;
    }
    // The version follows the distribution's own, which stands in parentheses: "GCC: (Debian 12.2.0-14) 12.2.0".
    const size_t close = comment.find(')');
    int major = 0;
    int minor = 0;
    if (close == std::string::npos || sscanf(comment.c_str() + close + 1, "%d.%d", &major, &minor) != 2) {
        return false; // a GCC of unknown age: the slower path is the safe one
    }
    switch (major) {
    case 11:
        return minor >= 5;
    case 12:
        return minor >= 4;
    case 13:
        return minor >= 3;
    default:
        return major >= 14;
    }
}

} // namespace mp
