package org.maskprobe;

import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;

/** What tests/test_android.py wants to know of the native methods: lines of a name and a value. */
final class DriveNative {
    private static final byte[][] NO_STOP = {};

    public static void main(String[] arguments) {
        long model = Native.openModel(bytes(arguments[0]), -1);
        for (byte[] line : Native.describe(model)) {
            say("described", text(line));
        }
        int[] prompt = Native.tokenize(model, bytes(arguments[1]), true, false);
        say("prompt", prompt.length);
        say("characters", Native.tokenize(model, bytes("\uD83D\uDE00"), false, false).length);
        long context = Native.openContext(model, 512, 2, 1);
        long engine = Native.openEngine(context, null);
        Native.freeContext(context);
        Native.freeModel(model); // the engine keeps both

        long first = open(engine, prompt, 40, NO_STOP), second = open(engine, prompt, 40, new byte[][] {bytes(arguments[2])});
        say("text", finish(engine, first));
        say("stopped", finish(engine, second));
        for (long number : Native.stats(first)) {
            say("stats", number);
        }
        Native.freeGeneration(first);
        Native.freeGeneration(second);

        long endless = open(engine, prompt, -1, NO_STOP);
        while (Native.next(endless) == null) {
            Native.step(engine);
        }
        Native.cancel(endless);
        finish(engine, endless);
        Native.freeGeneration(endless);

        refused(() -> Native.openModel(bytes(arguments[0] + ".missing\u00e9"), -1));
        refused(() -> Native.openModel(bytes("a\0b"), -1));
        refused(() -> open(engine, new int[0], 1, NO_STOP));
        refused(() -> open(engine, prompt, 1, new byte[][] {bytes("a\0b")}));
        refused(() -> Native.tokenize(0, bytes("x"), true, true));
        Native.freeEngine(engine);
    }

    private static long open(long engine, int[] prompt, long n, byte[][] stop) {
        return Native.openGeneration(engine, prompt, n, stop, true, 0, 40, 0.95f, 0.05f, 1, 1, null);
    }

    private static String finish(long engine, long generation) {
        StringBuilder text = new StringBuilder();
        while (true) {
            Token token = Native.next(generation);
            if (token == null) {
                Native.step(engine);
                continue;
            }
            text.append(token.text);
            if (token.finish != Token.GOES_ON) {
                say("finish", token.finish);
                return text.toString();
            }
        }
    }

    private static void refused(Runnable call) {
        try {
            call.run();
            say("refused", "nothing");
        } catch (MaskprobeException e) {
            say("refused", e.status + " " + e.getMessage());
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static void say(String name, Object value) {
        System.out.println(name + "=" + URLEncoder.encode(value.toString(), StandardCharsets.UTF_8));
    }
}
