package stockroom_test

import (
	"context"
	"errors"
	"fmt"
	"log" //nolint:depguard // as a small program would
	"os"
	"time"

	stockroom "github.com/stockroom/stockroom/clients/go"
)

func Example() {
	ctx := context.Background()
	client, err := stockroom.New(os.Getenv("STOCKROOM_URL"), stockroom.WithAPIKey(os.Getenv("STOCKROOM_API_KEY")))
	if err != nil {
		log.Fatal(err)
	}

	// A component of a framework, for a day.
	button := &stockroom.Component{
		SourceCode:   "export const Button = () => <button>Save</button>",
		Dependencies: []string{"react"},
	}
	if _, err := client.SetComponent(ctx, "docs", "button", button, stockroom.TTL(24*time.Hour)); err != nil {
		log.Fatal(err)
	}
	stored, err := client.GetComponent(ctx, "docs", "button")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stored.Value.SourceCode)

	// Any JSON value under a key of your own.
	if _, err := client.Set(ctx, "docs:builds", 41); err != nil {
		log.Fatal(err)
	}
	builds, err := stockroom.GetAs[int](ctx, client, "docs:builds")
	if err != nil {
		log.Fatal(err)
	}

	// Count up where nobody else has meanwhile; all of it happens, or nothing.
	_, err = client.Transaction(ctx,
		stockroom.Check("docs:builds", builds.ETag),
		stockroom.CheckAbsent("docs:frozen"),
		stockroom.Set("docs:builds", builds.Value+1),
		stockroom.Delete("component:docs:button"),
	)
	if errors.Is(err, stockroom.ErrCheckFailed) {
		log.Fatal("somebody else was faster: read again")
	} else if err != nil {
		log.Fatal(err)
	}

	for key, err := range client.Keys(ctx, "docs:*") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(key)
	}
	_, err = client.GetComponent(ctx, "docs", "button")
	fmt.Println(errors.Is(err, stockroom.ErrNotFound))

	// Output:
	// export const Button = () => <button>Save</button>
	// docs:builds
	// true
}
