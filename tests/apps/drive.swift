// What tests/test_apple.py wants to know of the Swift classes: lines of a name and a value.
import Foundation
import Maskprobe

func say(_ name: String, _ value: Any) {
    print(name + "=" + "\(value)".addingPercentEncoding(withAllowedCharacters: .alphanumerics)!)
}

func text(_ generation: Generation) async throws -> String {
    try await generation.text.reduce("", +)
}

@MainActor
func refused(_ call: @MainActor () async throws -> Void) async {
    do {
        try await call()
        say("refused", "nothing")
    } catch let error as MaskprobeError {
        say("refused", "\(error.kind.rawValue) \(error)")
    } catch {
        say("refused", error)
    }
}

@main
struct Drive {
    static func main() async throws {
        let arguments = CommandLine.arguments
        let prompt = arguments[2]
        let greedy = Options(maxTokens: 40, temperature: 0)
        let model = try Model(path: arguments[1], progress: { $0 <= 1 })
        say("described", [model.description, model.kernels, model.kernelsReason, model.note].joined(separator: "|"))
        say("characters", try model.tokenize("\u{1F600}", addSpecial: false).count)
        let engine = try Engine(model, contextSize: 512, parallel: 2, threads: 1)
        say("context", engine.contextSize)

        let generation = try engine.generate(prompt, greedy)
        say("text", try await text(generation))
        let stats = generation.stats
        say("stats", [stats.promptTokens, stats.tokens, stats.drafted, stats.accepted, stats.passes])
        var plain = greedy
        plain.draft = false
        say("plain", try await text(engine.generate(prompt, plain)))
        say("stopped", try await text(engine.generate(prompt, Options(maxTokens: 40, temperature: 0, stop: [arguments[3]]))))
        let beside = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<3 {
                group.addTask { try await text(engine.generate(prompt, greedy)) }
            }
            var texts = Set<String>()
            for try await one in group {
                texts.insert(one)
            }
            return texts
        }
        say("beside", beside.sorted().joined(separator: "|"))

        // Ended early: by cancel(), by leaving the loop, by the task.
        let endless = Options(temperature: 0)
        var last: Token?
        let cancelled = try engine.generate(prompt, endless)
        for try await token in cancelled {
            cancelled.cancel()
            last = token
        }
        say("finish", last?.finish?.rawValue ?? 0)
        let left = try engine.generate(prompt, endless)
        for try await _ in left {
            break
        }
        let task = Task { try await text(engine.generate(prompt, endless)) }
        _ = try await text(engine.generate(prompt, greedy))
        task.cancel()
        _ = try await task.value
        say("after", try await text(engine.generate(prompt, greedy)))

        await refused { _ = try Model(path: arguments[1] + ".missing\u{e9}") }
        await refused { _ = try Model(path: "a\0b") }
        await refused { _ = try Model(path: arguments[1], progress: { _ in false }) }
        await refused { _ = try engine.generate([Int32]()) }
        await refused { _ = try engine.generate(prompt, Options(temperature: -1)) }
        var bad = Options()
        bad.grammar = "root = x"
        await refused { _ = try engine.generate(prompt, bad) }
        let late = try engine.generate(prompt, endless)
        engine.close()
        var end: Token?
        for try await token in late {
            end = token
        }
        say("late", end?.finish?.rawValue ?? 0)
        await refused { _ = try engine.generate(prompt) }
    }
}
