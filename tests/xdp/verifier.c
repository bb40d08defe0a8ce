/* Loads an object and prints what the verifier counted for each of its programs: "NAME: processed N ... stack depth A+B". */
#include <stdio.h>

#include <bpf/libbpf.h>

/* Log level 4 is the statistics alone. */
#define STATISTICS 4

static char logs[8][4096];

int main(int count, char **words)
{
	struct bpf_object *object = count == 2 ? bpf_object__open_file(words[1], NULL) : NULL;
	struct bpf_program *program;
	int at = 0;

	if (!object)
		return 1;
	bpf_object__for_each_program(program, object) {
		if (at == 8)
			return 1;
		bpf_program__set_log_level(program, STATISTICS);
		bpf_program__set_log_buf(program, logs[at++], sizeof(logs[0]));
	}
	if (bpf_object__load(object))
		return 1;
	at = 0;
	bpf_object__for_each_program(program, object)
		printf("%s: %s\n", bpf_program__name(program), logs[at++]);
	return 0;
}
