// What tests/test_android.py wants to know of the Kotlin classes: lines of a name and a value.
package org.maskprobe

import java.io.File
import java.net.URLEncoder
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout

private fun say(name: String, value: Any) = println("$name=${URLEncoder.encode(value.toString(), Charsets.UTF_8)}")

private suspend fun refused(call: suspend () -> Unit) =
    try {
        call()
        say("refused", "nothing")
    } catch (e: MaskprobeException) {
        say("refused", "${e.status} ${e.message}")
    } catch (e: IllegalStateException) {
        say("refused", e.message ?: "")
    }

fun main(arguments: Array<String>) = runBlocking(Dispatchers.Default) {
    val greedy = Options(maxTokens = 40, temperature = 0f)
    val model = Model(File(arguments[0]))
    say("kernels", model.kernels)
    val engine = Engine(model, contextSize = 512, parallel = 2, threads = 1)
    say("context", engine.contextSize)
    say("text", engine.text(arguments[1], greedy).toList().joinToString(""))
    say("plain", engine.text(arguments[1], greedy.copy(draft = false)).toList().joinToString(""))
    val beside = List(3) { async { engine.text(arguments[1], greedy).toList().joinToString("") } }.awaitAll()
    say("beside", beside.toSet().joinToString("|"))
    val tokens = engine.tokens(model.tokenize(arguments[1]), greedy) { say("stats", it.run { listOf(tokens, passes, accepted) }) }
    say("finish", tokens.toList().map { it.finish }.distinct())

    // Ended early: by the collector itself, and from outside.
    val endless = greedy.copy(maxTokens = -1)
    say("taken", engine.tokens(model.tokenize(arguments[1]), endless).take(3).toList().size)
    val job = launch { engine.text(arguments[1], endless).collect {} }
    engine.text(arguments[1], greedy).collect {}
    withTimeout(60_000) { job.cancelAndJoin() }
    say("after", engine.text(arguments[1], greedy).toList().joinToString(""))

    refused { Model(File(arguments[0] + ".missing")) }
    refused { engine.tokens(IntArray(0)).collect {} }
    refused { engine.text(arguments[1], Options(temperature = -1f)).collect {} }
    refused { engine.text(arguments[1], Options(grammar = "root = x")).collect {} }
    val late = async { engine.tokens(model.tokenize(arguments[1]), endless).toList().last().finish }
    engine.tokens(model.tokenize(arguments[1]), greedy).collect {}
    model.close()
    engine.close()
    say("late", late.await())
    refused { engine.tokens(IntArray(1)).collect {} }
    refused { model.tokenize("x") }
}
