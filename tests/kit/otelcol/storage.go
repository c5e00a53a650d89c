package main

// A stand-in for contrib's file_storage, which Debian does not package: its options, and one file for each key.

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
)

type options struct {
	Directory       string        `mapstructure:"directory"`
	CreateDirectory bool          `mapstructure:"create_directory"`
	FSync           bool          `mapstructure:"fsync"`
	Timeout         time.Duration `mapstructure:"timeout"`
	Compaction      struct {
		OnStart   bool   `mapstructure:"on_start"`
		OnRebound bool   `mapstructure:"on_rebound"`
		Directory string `mapstructure:"directory"`
		Cleanup   bool   `mapstructure:"cleanup_on_start"`
	} `mapstructure:"compaction"`
}

type files struct{ folder string }

func newStorage() extension.Factory {
	return extension.NewFactory(
		component.MustNewType("file_storage"),
		func() component.Config { return &options{} },
		func(_ context.Context, _ extension.Settings, given component.Config) (extension.Extension, error) {
			return files{given.(*options).Directory}, nil
		},
		component.StabilityLevelBeta,
	)
}

func (f files) Start(context.Context, component.Host) error { return nil }
func (f files) Shutdown(context.Context) error              { return nil }
func (f files) Close(context.Context) error                 { return nil }

func (f files) GetClient(_ context.Context, _ component.Kind, id component.ID, name string) (storage.Client, error) {
	client := files{f.path(id.String() + name)}
	return client, os.MkdirAll(client.folder, 0o750)
}

func (f files) path(key string) string {
	return filepath.Join(f.folder, base64.RawURLEncoding.EncodeToString([]byte(key)))
}

func (f files) Get(_ context.Context, key string) ([]byte, error) {
	value, err := os.ReadFile(f.path(key))
	return value, unlessMissing(err)
}

func (f files) Set(_ context.Context, key string, value []byte) error {
	draft := f.path(key) + ".new"
	if err := os.WriteFile(draft, value, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, f.path(key))
}

func (f files) Delete(_ context.Context, key string) error {
	return unlessMissing(os.Remove(f.path(key)))
}

func (f files) Batch(ctx context.Context, operations ...*storage.Operation) (err error) {
	for _, one := range operations {
		switch one.Type {
		case storage.Get:
			one.Value, err = f.Get(ctx, one.Key)
		case storage.Set:
			err = f.Set(ctx, one.Key, one.Value)
		case storage.Delete:
			err = f.Delete(ctx, one.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func unlessMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
