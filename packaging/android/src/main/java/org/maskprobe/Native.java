package org.maskprobe;

/**
 * The C interface as far as {@link Model} and {@link Engine} need it (src/main/cpp/maskprobe_jni.cpp). Handles are
 * pointers: nothing may be called with one that was freed. Text is UTF-8. A failure is a {@link MaskprobeException}.
 */
final class Native {
    static {
        System.loadLibrary("maskprobe_jni");
    }

    private Native() {}

    static native long openModel(byte[] path, int gpuLayers);

    static native void freeModel(long model);

    /** What the model is, its kernels, why these, and a note, each one line or empty. */
    static native byte[][] describe(long model);

    static native int[] tokenize(long model, byte[] text, boolean addSpecial, boolean parseSpecial);

    /** The prompt for the assistant's next message. */
    static native byte[] formatChat(long model, byte[][] roles, byte[][] contents);

    static native long openContext(long model, int contextSize, int sessions, int threads);

    static native void freeContext(long context);

    static native int contextSize(long context);

    /** state: a file, or null for none. */
    static native long openEngine(long context, byte[] state);

    static native void freeEngine(long engine);

    /** One pass for all generations; how many go on. One thread at a time. */
    static native int step(long engine);

    /** From any thread, as all that follows. grammar: GBNF, or null. */
    static native long openGeneration(
            long engine,
            int[] tokens,
            long maxTokens,
            byte[][] stop,
            boolean draft,
            float temperature,
            int topK,
            float topP,
            float minP,
            float repeatPenalty,
            int seed,
            byte[] grammar);

    /** The next token; null: a step is needed first. */
    static native Token next(long generation);

    static native void cancel(long generation);

    static native void freeGeneration(long generation);

    /** Tokens of the prompt, emitted tokens, drafted ones, accepted ones, passes. */
    static native long[] stats(long generation);
}
