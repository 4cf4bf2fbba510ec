//! Sources that mean harm to whoever compiles them.

use hearth_schemas::result::{Cause, Verdict};
use serde_json::json;

use super::{Evil, in_arena, unleash};

/// A compiler that reads `source`.
fn compile(name: &'static str, compiler: &str, source: &'static str) -> Evil {
    let command = format!("{compiler} -o bomb -");
    Evil::shell(name, &format!("exec {command}")).within(json!({"memory_mib": 160})).reads(source)
}

fn c(name: &'static str, source: &'static str) -> Evil {
    compile(name, "gcc -x c", source)
}

fn cpp(name: &'static str, source: &'static str) -> Evil {
    compile(name, "g++ -x c++", source)
}

/// Words that each stand for two of the next.
const MACROS: &str = "#define A B B\n#define B C C\n#define C D D\n#define D E E\n#define E F F\n#define F G G\n\
    #define G H H\n#define H I I\n#define I J J\n#define J K K\n#define K L L\n#define L M M\n#define M N N\n#define N O O\n\
    #define O P P\n#define P Q Q\n#define Q R R\n#define R S S\n#define S T T\n#define T U U\n#define U V V\n#define V W W\n\
    #define W X X\n#define X Y Y\n#define Y Z Z\n#define Z AA AA\n#define AA BB BB\n#define BB CC CC\n#define CC DD DD\n\
    #define DD EE EE\n#define EE FF FF\n#define FF ;\nint main(void) { A }\n";

#[tokio::test(flavor = "multi_thread")]
async fn compilers_are_held_like_any_program() {
    let programs = [
        c("include-zero", "#include \"/dev/zero\"\n").gets(Verdict::MemoryLimit, Cause::Oom),
        c("include-random", "#include \"/dev/urandom\"\n").within(json!({"cpu_ms": 20_000})).gets(Verdict::MemoryLimit, Cause::Oom),
        c("include-stdin", "#include \"/dev/stdin\"\nint main;").exits(0),
        c("include-itself", "#include __FILE__\n").exits(1),
        c("include-shadow", "#include \"/etc/shadow\"\n").exits(1),
        c("include-scratch", "#include \"/scratch/work/main.c\"\n").exits(1),
        c("include-agent", "#include \"/run/hearth/hostname\"\n").exits(1),
        c("include-init", "#include \"/proc/1/environ\"\n").exits(1),
        c("embed-memory", "__asm__(\".incbin \\\"/proc/kcore\\\"\");int main;").exits(1),
        c("macros", MACROS).within(json!({"cpu_ms": 700})).gets(Verdict::TimeLimit, Cause::Cpu),
        c("huge-array", "char a[1L << 30] = {1}; int main(void) { return a[5]; }")
            .within(json!({"disk_mib": 64}))
            .gets(Verdict::DiskLimit, Cause::Enospc),
        c("huge-fill", "__asm__(\".fill 0x40000000, 1, 7\"); int main;").within(json!({"disk_mib": 64, "memory_mib": 64})).gets(Verdict::DiskLimit, Cause::Enospc),
        c("huge-stack", "int main(void) { char a[1L << 40]; a[0] = 1; return a[1]; }").exits(0),
        cpp("templates", "template<int N> struct T { T<N + 1> t; }; T<0> t; int main() {}").exits(1),
        compile("deep-templates", "g++ -x c++ -ftemplate-depth=100000000", "template<int N> struct T { static const int v = T<N + 1>::v; }; int main() { return T<0>::v; }")
            .within(json!({"cpu_ms": 4000}))
        .gets(Verdict::TimeLimit, Cause::Cpu),
        cpp("wide-templates", "template<class A, class B> struct P {}; template<int N> struct T { using t = P<typename T<N - 1>::t, P<typename T<N - 1>::t, T<N>>>; static const int v = sizeof(t) + T<N - 1>::v; }; template<> struct T<0> { using t = int; static const int v = 1; }; template<class X> int f(X) { return 1; } int main() { return f(T<25>::t()); }")
            .within(json!({"cpu_ms": 300}))
            .gets(Verdict::TimeLimit, Cause::Cpu),
        cpp("constexpr", "constexpr int f() { for (;;) {} } static_assert(f()); int main() {}").exits(1),
    ];
    in_arena("gcc", async |arena| drop(unleash(arena, &programs).await)).await;
}
