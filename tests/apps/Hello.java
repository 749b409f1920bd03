// `serve`: a web server on a pool of threads. `use HOST`: many requests to it at a time.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.concurrent.Executors;
import java.util.stream.IntStream;

public class Hello {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("serve")) {
            HttpServer server = HttpServer.create(new InetSocketAddress(8084), 200);
            server.createContext("/", exchange -> {
                byte[] body = "java here\n".getBytes();
                exchange.sendResponseHeaders(200, body.length);
                exchange.getResponseBody().write(body);
                exchange.close();
            });
            server.setExecutor(Executors.newFixedThreadPool(8));
            server.start();
            return;
        }
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + args[1] + ":8084/")).build();
        int sum = IntStream.range(0, 200)
            .mapToObj(n -> client.sendAsync(request, HttpResponse.BodyHandlers.ofString()))
            .toList().stream().mapToInt(answer -> answer.join().body().length()).sum();
        System.out.println("java: requests " + sum);
        System.exit(0);
    }
}
